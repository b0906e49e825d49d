//! `[memory]`: what is not kept in the device's memory.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Let the captioner and the text encoders go whenever they have nothing to do; they are opened again from their files. A little
    /// time for the memory that they take.
    pub offload: bool,
}
