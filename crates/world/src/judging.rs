//! Folders of pictures, judged against their prompts.

use crate::{
    judge::{Look, Verdict},
    prompts::Category,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One picture and what the judge says of it: a line of `scores.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub prompt: String,
    pub category: Category,
    pub seed: u64,
    /// Relative to the folder that was judged.
    pub file: PathBuf,
    pub look: Look,
    pub verdict: Verdict,
}
