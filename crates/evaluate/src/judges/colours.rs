//! The colour of an object, classified by CLIP as in GenEval.

use anyhow::Result;
use benchmarks::{
    boxes::Detection,
    geneval::{Colour, Colours, colour_prompts},
};
use models::clip::ClipScore;
use tch::{Kind, Tensor};

/// The colour whose descriptions are most similar to the image in the box. (The original also paints the background
/// grey, using the detector's masks; Grounding DINO gives no masks.)
pub struct ByClip<'a> {
    pub clip: &'a ClipScore,
    /// `[3, H, W]` in 0..1
    pub image: &'a Tensor,
}

impl Colours for ByClip<'_> {
    fn colours(&self, class: &str, objects: &[&Detection]) -> Result<Vec<Colour>> {
        let _guard = tch::no_grad_guard();
        let mut described = vec![];
        for colour in Colour::ALL {
            let prompts = colour_prompts(class, colour);
            let embeds = self.clip.text_embeds(&prompts.each_ref().map(String::as_str))?.to_kind(Kind::Double);
            let mean = embeds.mean_dim([0i64].as_slice(), false, Kind::Double);
            described.push(&mean / mean.norm());
        }
        let described = Tensor::stack(&described, 0);
        let colour = |object: &&Detection| {
            let seen = self.clip.image_embeds(&self.cut(object).unsqueeze(0))?.to_kind(Kind::Double);
            let best = described.matmul(&seen.squeeze_dim(0)).argmax(0, false).int64_value(&[]);
            Ok(Colour::ALL[best as usize])
        };
        objects.iter().map(colour).collect()
    }
}

impl ByClip<'_> {
    /// The part of the image in a box: whole pixels, at least one.
    fn cut(&self, object: &Detection) -> Tensor {
        let size = self.image.size();
        let side = |from: f64, to: f64, size: i64| {
            let from = (from.floor() as i64).clamp(0, size - 1);
            (from, (to.ceil() as i64).clamp(from + 1, size) - from)
        };
        let (left, width) = side(object.bounds.left, object.bounds.right, size[2]);
        let (top, height) = side(object.bounds.top, object.bounds.bottom, size[1]);
        self.image.narrow(1, top, height).narrow(2, left, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use benchmarks::boxes::BoundingBox;
    use std::path::Path;
    use torch_ext::testing::device;

    #[test]
    fn boxes_are_cut_within_the_image() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/clip_score");
        let clip = ClipScore::open(&folder, Kind::Double, device()).unwrap();
        let image = Tensor::arange(3 * 20 * 30, (Kind::Double, device())).view([3, 20, 30]).sin().square();
        let colours = ByClip { clip: &clip, image: &image };
        let object = |left, top, right, bottom| Detection {
            label: "dog".into(),
            score: 0.5,
            bounds: BoundingBox::new(left, top, right, bottom),
        };
        let size = |object: Detection| colours.cut(&object).size();
        assert_eq!(size(object(2.5, 3.0, 10.0, 8.2)), [3, 6, 8]);
        assert_eq!(size(object(-4.0, -3.0, 99.0, 99.0)), [3, 20, 30]);
        assert_eq!(size(object(30.0, 20.0, 31.0, 21.0)), [3, 1, 1]);
        assert_eq!(size(object(f64::NAN, 5.0, f64::NAN, 5.0)), [3, 1, 1]);
        let seen = [object(0.0, 0.0, 9.0, 9.0), object(9.0, 9.0, 30.0, 20.0)];
        let told = colours.colours("dog", &seen.each_ref()).unwrap();
        assert_eq!(told.len(), 2);
        // the embeddings of the three descriptions are averaged here
        let best = |object: &Detection| {
            let cosine = |colour: Colour| {
                let prompts = colour_prompts("dog", colour);
                let sum = clip.text_embeds(&prompts.each_ref().map(String::as_str)).unwrap().sum_dim_intlist(
                    [0i64].as_slice(),
                    false,
                    Kind::Double,
                );
                let image = clip.image_embeds(&colours.cut(object).unsqueeze(0)).unwrap().get(0);
                (sum.dot(&image) / sum.norm()).double_value(&[])
            };
            Colour::ALL.into_iter().max_by(|a, b| cosine(*a).total_cmp(&cosine(*b))).unwrap()
        };
        assert_eq!(told, [best(&seen[0]), best(&seen[1])]);
    }
}
