//! How T2I-CompBench, TIFA, DSG and GenEval score pictures, without the networks that look at them.

pub mod statistics;
