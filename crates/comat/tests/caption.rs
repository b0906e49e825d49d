//! The caption loss against a plain computation beside it: the crop, smoothed labels.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    loss::caption::{Caption, CaptionLoss},
    reward::Crop,
    reward::ImageReward,
    share::Share,
};
use models::{
    blip::{Captioner, IGNORED},
    preprocess::{Preprocess, resize},
    tokenizer::BertTokenizer,
};
use std::path::PathBuf;
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const PROMPTS: [&str; 2] = ["Small blackish cats on the old house", "a round dog"];
/// Not square, and large enough to be moved by up to two pixels.
const SIZE: [i64; 2] = [450, 512];
const CROPS: [Crop; 2] = [(0, 2), (2, 1)];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/blip")
}

fn ours(label_smoothing: f64, images: &Tensor, crops: &[Crop]) -> Caption {
    of(&config::Captioner { label_smoothing, ..config::Captioner::at(folder()) }, images, crops)
}

fn of(config: &config::Captioner, images: &Tensor, crops: &[Crop]) -> Caption {
    let loss = CaptionLoss::open(config, Kind::Double, device()).unwrap();
    loss.with_cotangent(images, &Share::whole(&PROMPTS), crops).unwrap()
}

fn images() -> Tensor {
    tch::manual_seed(4);
    Tensor::rand([2, 3, SIZE[0], SIZE[1]], (Kind::Double, device()))
}

/// Loss and `dL/d image`, with pieces that are cut out of the images by rows and columns.
fn by_hand(label_smoothing: f64, images: &Tensor, crops: &[Crop]) -> (f64, Tensor) {
    by_hand_with_end(1.0, label_smoothing, images, crops)
}

/// The same with each caption's last token counted that many times.
fn by_hand_with_end(end: f64, label_smoothing: f64, images: &Tensor, crops: &[Crop]) -> (f64, Tensor) {
    let images = images.copy().set_requires_grad(true);
    let (height, width) = (448, 510); // 450 // 224 = 2 less on either side
    let piece = |i: usize| {
        let (top, left) = crops[i];
        let rows = Tensor::arange_start(top, top + height, (Kind::Int64, device()));
        let columns = Tensor::arange_start(left, left + width, (Kind::Int64, device()));
        images.get(i as i64).index_select(1, &rows).index_select(2, &columns)
    };
    let pieces = Tensor::stack(&[piece(0), piece(1)], 0);
    let preprocess = Preprocess::open(&folder()).unwrap();
    let pixels = preprocess.normalise(&resize(&pieces, (32, 32)).unwrap()).unwrap();

    let texts = PROMPTS.map(|prompt| format!("a photography of {}", prompt.to_lowercase()));
    let mut batch = BertTokenizer::open(&folder()).unwrap().encode_batch(&[&texts[0], &texts[1]], 24).unwrap();
    (batch.ids, batch.attention_mask) = (batch.ids.to_device(device()), batch.attention_mask.to_device(device()));
    let captioner = Captioner::open(&folder(), Kind::Double, device()).unwrap();
    let embeds = captioner.embed_image(&pixels).unwrap();
    let logits = captioner.logits(&embeds, &batch.ids, &batch.attention_mask).unwrap();
    let labels = batch.ids.masked_fill(&batch.attention_mask.eq(0), IGNORED);
    let _ = labels.narrow(1, 0, 4).fill_(IGNORED); // [CLS] a photography of
    let length = labels.size()[1];
    let told = logits.narrow(1, 0, length - 1).flatten(0, 1);
    let labels = labels.narrow(1, 1, length - 1).flatten(0, 1);
    let by_token = told.cross_entropy_loss(&labels, None::<&Tensor>, tch::Reduction::None, IGNORED, label_smoothing);
    let weights = labels.ne(IGNORED).to_kind(Kind::Double) + labels.eq(3).to_kind(Kind::Double) * (end - 1.0); // 3: [SEP]
    let loss = (by_token * &weights).sum(Kind::Double) / weights.sum(Kind::Double);
    let gradient = torch_ext::vjp(&[&loss], &[&images], &[&loss.ones_like()]).unwrap().remove(0).unwrap();
    (loss.double_value(&[]), gradient)
}

fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    ((a - b).norm() / b.norm()).double_value(&[])
}

#[test]
fn the_crop_is_where_it_was_drawn() {
    assert_eq!(comat::loss::caption::jitter(SIZE[0], SIZE[1]), 2);
    let images = images();
    let (loss, gradient) = by_hand(0.0, &images, &CROPS);
    let found = ours(0.0, &images, &CROPS);
    assert!((found.loss - loss).abs() < 1e-12 && found.smoothed == found.loss, "{} {loss}", found.loss);
    assert!(relative_error(&found.cotangent, &gradient) < 1e-10);

    // what is outside of the crop has no part in it
    let outside = |sample: i64, dim: i64, at: i64| {
        found.cotangent.get(sample).select(dim, at).abs().max().double_value(&[]) == 0.0
    };
    let edges = |sample| [(1, 0), (1, SIZE[0] - 1), (2, 0), (2, SIZE[1] - 1)].map(|(dim, at)| outside(sample, dim, at));
    assert_eq!(edges(0), [false, true, true, false], "from the top, two from the left");
    assert_eq!(edges(1), [true, false, true, true], "two from the top, one from the left");

    // and the comparison would see it if it were elsewhere
    let (elsewhere, moved) = by_hand(0.0, &images, &CROPS.map(|(top, left)| (left, top)));
    assert!((elsewhere - loss).abs() > 1e-7 && relative_error(&moved, &gradient) > 0.1);
}

/// A mean in which the last token of each caption counts several times; `values` have the same mean for each image.
#[test]
fn the_end_may_count_more() {
    let images = images();
    let config = config::Captioner { end_weight: 3.0, label_smoothing: 0.1, ..config::Captioner::at(folder()) };
    let found = of(&config, &images, &CROPS);
    let (loss, _) = by_hand_with_end(3.0, 0.0, &images, &CROPS);
    let (smoothed, gradient) = by_hand_with_end(3.0, 0.1, &images, &CROPS);
    assert!((found.loss - loss).abs() < 1e-12 && (found.smoothed - smoothed).abs() < 1e-12, "{} {loss}", found.loss);
    assert!(relative_error(&found.cotangent, &gradient) < 1e-10);
    assert!((loss - by_hand(0.0, &images, &CROPS).0).abs() > 1e-3);

    let open = |config| CaptionLoss::open(config, Kind::Double, device()).unwrap();
    let ends = open(&config);
    let (values, losses) = (ends.values(&images, &PROMPTS).unwrap(), ends.losses(&images, &PROMPTS).unwrap());
    assert!(values.iter().zip(&losses).all(|(value, loss)| (value + loss).abs() < 1e-12), "{values:?} {losses:?}");
    let plain = open(&config::Captioner::at(folder())).nll(&images, &PROMPTS, &[(0, 0); 2]).unwrap();
    for (row, loss) in (0..).zip(losses) {
        let [sum, end] = [&plain.sum, &plain.end[0]].map(|of| of.double_value(&[row]));
        let tokens = plain.tokens.int64_value(&[row]) as f64;
        assert!(((sum + 2.0 * end) / (tokens + 2.0) - loss).abs() < 1e-12);
    }
}

/// Every offset comes up, and both are drawn.
#[test]
fn crops_are_drawn_from_everywhere() {
    let drawn: std::collections::BTreeSet<Crop> =
        (0..100).map(|sample| CaptionLoss::draw_crop(1, 0, sample, SIZE[0], SIZE[1]).unwrap()).collect();
    assert_eq!(drawn, (0..3).flat_map(|top| (0..3).map(move |left| (top, left))).collect());
}

/// The gradient is that of the smoothed loss; the loss that is told, and those of held-out prompts, are not smoothed.
#[test]
fn smoothed_labels_have_a_part_in_the_gradient_alone() {
    let images = images();
    let (plain, _) = by_hand(0.0, &images, &CROPS);
    let (smoothed, gradient) = by_hand(0.1, &images, &CROPS);
    let found = ours(0.1, &images, &CROPS);
    assert!((found.loss - plain).abs() < 1e-12 && (found.smoothed - smoothed).abs() < 1e-12);
    assert!(relative_error(&found.cotangent, &gradient) < 1e-10);
    assert!((smoothed - plain).abs() > 1e-3 && relative_error(&gradient, &by_hand(0.0, &images, &CROPS).1) > 1e-3);

    let value = |label_smoothing| {
        let config = config::Captioner { label_smoothing, ..config::Captioner::at(folder()) };
        CaptionLoss::open(&config, Kind::Double, device()).unwrap().losses(&images, &PROMPTS).unwrap()
    };
    assert_eq!(value(0.1), value(0.0));
}
