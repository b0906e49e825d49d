//! Image preprocessing against torch's own, values and gradients.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::preprocess::{Preprocess, crop, resize};
use serde_json::json;
use tch::{Kind, Tensor};

#[test]
fn values_and_gradients() {
    let io = io("preprocess");
    for name in ["image0", "image1"] {
        for side in [32, 80] {
            for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::Double, 1e-6)] {
                let get = |key: &str| &io[&format!("{name}.{side}.{key}")];
                let image = io[name].to_kind(kind).set_requires_grad(true);
                let pixels = Preprocess::default().apply(&image, (side, side)).unwrap();
                assert_eq!(pixels.kind(), kind);
                assert_close(&format!("{name} {side} {kind:?} values"), &pixels, get("pixel_values"), tolerance);
                let grads = torch_ext::vjp(&[&pixels], &[&image], &[&get("cotangent").to_kind(kind)]).unwrap();
                assert_close(
                    &format!("{name} {side} {kind:?} gradient"),
                    grads[0].as_ref().unwrap(),
                    get("grad"),
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn half_precision_is_widened() {
    let io = io("preprocess");
    for (kind, tolerance) in [(Kind::Half, 1e-2), (Kind::BFloat16, 1e-1)] {
        let image = io["image1"].to_kind(kind).set_requires_grad(true);
        let pixels = Preprocess::default().apply(&image, (32, 32)).unwrap();
        assert_eq!(pixels.kind(), Kind::Float);
        assert_close("half", &pixels, &io["image1.32.pixel_values"], tolerance);
        let grads = torch_ext::vjp(&[&pixels], &[&image], &[&io["image1.32.cotangent"]]).unwrap();
        assert_eq!(grads[0].as_ref().unwrap().kind(), kind);
    }
}

#[test]
fn sizes_need_not_be_square() {
    let image = &io("preprocess")["image0"];
    assert_eq!(resize(image, (20, 33)).unwrap().size(), [2, 3, 20, 33]);
}

/// What a crop leaves out gets no gradient.
#[test]
fn crops() {
    let image = io("preprocess")["image0"].copy().set_requires_grad(true);
    let part = crop(&image, (3, 5), (40, 42)).unwrap();
    assert_eq!(part, image.slice(2, 3, 43, 1).slice(3, 5, 47, 1));
    let grads = torch_ext::vjp(&[&part], &[&image], &[&part.ones_like()]).unwrap();
    let grad = grads[0].as_ref().unwrap();
    assert_eq!(grad.sum(Kind::Float).double_value(&[]), (2 * 3 * 40 * 42) as f64);
    assert_eq!(grad.narrow(2, 0, 3).abs().max().double_value(&[]), 0.0);
}

#[test]
fn wrong_inputs_are_errors() {
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    let image = zeros(&[1, 3, 8, 8]);
    assert_error(resize(&zeros(&[3, 8, 8]), (4, 4)), &["[3, 8, 8]"]);
    assert_error(resize(&zeros(&[1, 4, 8, 8]), (4, 4)), &["[1, 4, 8, 8]"]);
    assert_error(resize(&image.to_kind(Kind::Uint8), (4, 4)), &["Uint8"]);
    assert_error(resize(&image, (0, 4)), &["0x4"]);
    assert_error(crop(&image, (1, 0), (8, 8)), &["8x8 at (1, 0)"]);
    assert_error(crop(&image, (-1, 0), (8, 8)), &["(-1, 0)"]);
    assert_error(crop(&image, (0, 0), (0, 8)), &["0x8"]);
    assert_error(crop(&image, (i64::MAX, 0), (8, 8)), &["8x8"]);
}

#[test]
fn the_file_beside_the_model() {
    let read = Preprocess::open(&fixture("blip")).unwrap();
    assert_eq!(read, Preprocess { size: Some((32, 32)), ..Preprocess::default() });
    assert_eq!(Preprocess::open(&fixture("preprocess")).unwrap(), Preprocess::default());
    let file = "preprocessor_config.json";
    let changed = copy(&fixture("blip"))
        .set(file, "size", json!(384))
        .set(file, "image_mean", json!([0.5, 0.25, 0.5]))
        .set(file, "image_std", json!([0.5, 0.5, 0.25]));
    let read = Preprocess::open(changed.path()).unwrap();
    assert_eq!(read, Preprocess { mean: [0.5, 0.25, 0.5], std: [0.5, 0.5, 0.25], size: Some((384, 384)) });
    let image = Tensor::full([1, 3, 2, 2], 0.75, (Kind::Double, device()));
    let channels = read.normalise(&image).unwrap().mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double);
    assert_eq!(Vec::<f64>::try_from(&channels).unwrap(), [0.5, 1.0, 1.0]);
}

#[test]
fn other_preprocessing_is_refused() {
    let file = "preprocessor_config.json";
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture("blip")).set(file, key, value);
        assert_error(Preprocess::open(folder.path()), &[&[file, key], words].concat());
    };
    refused("resample", json!(2), &["only 3"]);
    refused("do_normalize", json!(false), &["only true"]);
    refused("do_center_crop", json!(true), &["only false"]);
    refused("size", json!({"shortest_edge": 224}), &["shortest_edge"]);
    refused("size", json!(0), &["at least 1"]);
    refused("image_mean", json!([0.5]), &["unsupported"]);
    refused("image_std", json!([0.5, 0.0, 0.5]), &["positive"]);
    refused("do_flip", json!(true), &["not known"]);
}
