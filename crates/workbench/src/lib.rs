//! Around a run of [`comat`]: [`plan`] says what one would do and need, [`trace`] shows one iteration with all its numbers, [`signal`]
//! measures what gradients have in common,
//! [`device_check`] holds a device against the CPU, [`prepare`] makes a model ready for images smaller than its own.

pub mod device_check;
pub mod plan;
pub mod prepare;
pub mod signal;
pub mod trace;
