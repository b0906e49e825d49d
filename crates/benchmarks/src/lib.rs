//! How T2I-CompBench, TIFA, DSG and GenEval score pictures, without the networks that look at them.

pub mod boxes;
pub mod dsg;
mod files;
pub mod geneval;
pub mod statistics;
pub mod tifa;
