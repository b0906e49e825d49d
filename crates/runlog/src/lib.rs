//! What a run writes while it goes on, for people and programs that look at it: no tensors.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod events;
pub mod pipe;
pub mod samples;
pub mod tensorboard;
