//! All tests of the program in one test program: each of them starts `comat`, and every test program has all of libtorch's glue in it, which
//! takes long to link. `cargo test -p cli --test program generate::` runs those of one file.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

mod common;
#[path = "../../hub/tests/server/mod.rs"]
mod server;

mod ablate;
mod attention;
mod bad_input;
mod demo;
mod doctor;
mod durable;
mod entities;
mod errors;
mod evaluate;
mod fidelity;
mod files;
mod first_steps;
mod generate;
mod guide;
mod help;
mod hub;
mod logging_command;
mod lora;
mod lora_sources;
mod lora_text;
mod mixed;
mod not_finite;
mod plan;
mod precision;
mod preference;
mod prepare;
mod pretrain;
mod prompts;
mod ranks;
mod ranks_faults;
mod report;
mod report_many;
mod report_serve;
mod resume;
mod rewards;
mod segment;
mod sweep;
mod tensorboard;
mod trace;
mod train;
mod watch;
mod words;
mod world;
