//! How T2I-CompBench, TIFA, DSG and GenEval score images, without the networks that look at them.
//!
//! A module for each benchmark reads its prompts and holds its rules, on plain data: answers to questions, probabilities, boxes.
//! [`records`] keeps what was answered of every image, a line each, so that a scoring that was stopped goes on; [`table`] adds the
//! lines up, with the intervals of [`statistics`]. `docs/metrics.md` says what each metric is and where we deviate.

pub mod boxes;
pub mod dsg;
mod files;
pub mod geneval;
pub mod records;
pub mod statistics;
pub mod t2i_compbench;
pub mod table;
pub mod tifa;
