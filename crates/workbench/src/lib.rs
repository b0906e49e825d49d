//! Tools around a run of [`comat`]: [`plan`] describes what a run would do and need, [`trace`] writes all values of one
//! iteration, [`signal`] measures how much gradients have in common, [`device_check`] compares a device with the CPU,
//! [`prepare`] prepares a model for images smaller than its own.

pub mod device_check;
pub mod plan;
pub mod prepare;
pub mod signal;
pub mod trace;
