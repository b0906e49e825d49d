//! Runs a benchmark from its prompts to its table: [`prompts`] says what is drawn and what is asked about it,
//! [`image_files`] names the files, [`draw`] makes the missing images, [`judges`] holds the networks that judge them,
//! and [`scoring`] scores all images.
//!
//! The scoring rules are in the crate `benchmarks`, the networks in the crate `models`.

pub mod draw;
pub mod image_files;
pub mod judges;
pub mod prompts;
pub mod scoring;
pub mod settings;
