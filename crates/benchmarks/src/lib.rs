//! The scoring rules of T2I-CompBench, TIFA, DSG and GenEval, without the networks that judge the images.
//!
//! Each benchmark has a module that reads its prompts and holds its rules, on plain data: answers to questions,
//! probabilities, boxes. [`records`] stores the answers for every image, one per line, so that a scoring that was
//! stopped can continue; [`table`] sums up the lines, with the intervals of [`statistics`]. `docs/metrics.md` says what
//! each metric is and where we deviate.

pub mod boxes;
pub mod dsg;
mod files;
pub mod geneval;
pub mod records;
pub mod statistics;
pub mod t2i_compbench;
pub mod table;
pub mod tifa;
