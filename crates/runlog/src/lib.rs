//! The files that a run writes during training, for people and programs that watch it; no tensors.

pub mod events;
pub mod pipe;
pub mod samples;
pub mod tensorboard;
