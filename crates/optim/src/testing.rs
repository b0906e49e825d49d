//! Helpers for unit tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use models::{
    lora::{Lora, Trainable},
    tensors::Tensors,
    weights::Weights,
};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

/// An adapter of a single 2×2 layer with rank 1, every value the same.
pub fn one_matrix(value: f64) -> Trainable {
    let layer = Tensors::from([("to_q.weight".into(), Tensor::zeros([2, 2], (Kind::Double, device())))]);
    let weights = Weights::new(layer, "test".into(), Kind::Double, device()).unwrap();
    let lora =
        Lora::fresh(&weights, &["to_q".into()], 1, 1.0, |_, shape| Ok(Tensor::ones(shape, (Kind::Double, device()))))
            .unwrap();
    let mut adapter = lora.trainable(Kind::Double, device());
    let _ = adapter.flat.fill_(value);
    adapter
}
