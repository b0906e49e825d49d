//! What a run writes while it goes on, for people and programs that look at it: no tensors.

pub mod events;
pub mod pipe;
pub mod samples;
pub mod tensorboard;
