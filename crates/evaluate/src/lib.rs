//! A benchmark, from its prompts to its table: [`prompts`] says what is drawn and what is asked about it, [`images`] how the files are
//! called, [`draw`] makes those that are missing, [`judges`] holds the networks that look, and [`scoring`] goes through the images.
//!
//! The rules are those of the crate `benchmarks`; the networks those of the crate `models`.

pub mod draw;
pub mod image_files;
pub mod judges;
pub mod prompts;
pub mod scoring;
pub mod settings;
