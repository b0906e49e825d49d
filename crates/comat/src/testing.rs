//! Small things for unit tests.

use models::{
    lora::{Lora, Trainable},
    tensors::Tensors,
    weights::Weights,
};
use tch::{Device, Kind, Tensor};

/// An adapter of a single 2×2 layer with rank 1, every value the same.
pub fn one_matrix(value: f64) -> Trainable {
    let layer = Tensors::from([("to_q.weight".into(), Tensor::zeros([2, 2], (Kind::Double, Device::Cpu)))]);
    let weights = Weights::new(layer, "test".into(), Kind::Double, Device::Cpu).unwrap();
    let lora = Lora::fresh(&weights, &["to_q".into()], 1, 1.0, |_, shape| {
        Ok(Tensor::ones(shape, (Kind::Double, Device::Cpu)))
    })
    .unwrap();
    let mut adapter = lora.trainable(Kind::Double, Device::Cpu);
    let _ = adapter.flat.fill_(value);
    adapter
}
