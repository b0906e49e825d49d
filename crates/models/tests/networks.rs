//! All tests of the networks and their files in one test program; but those that set what holds for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

mod common;
mod edited;

mod adapter_kinds;
mod blip;
mod clip;
mod clip_score;
mod ldm;
mod lora;
mod lora_files;
mod lora_names;
mod preprocess;
mod prompt;
mod sam;
mod samplers;
mod schedule;
mod sentence;
mod tokenizer;
mod unet;
mod vae;
mod vqa;
