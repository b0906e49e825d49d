//! How many samples a part of a step takes at a time.

use images::size::typed;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de, ser};
use std::{borrow::Cow, fmt, str::FromStr};

/// How many samples a part of a step takes at a time, typed as a number (0: the whole batch) or as `auto`: as many as fit into the
/// device's free memory, measured before the first step (`plan::micro_batch` in the crate `workbench`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MicroBatch {
    #[default]
    Auto,
    Samples(usize),
}

impl MicroBatch {
    pub const WHOLE: Self = Self::Samples(0);

    /// Samples at a time; 0, the whole batch, where it is still to be chosen.
    pub fn samples(self) -> usize {
        match self {
            Self::Auto => 0,
            Self::Samples(samples) => samples,
        }
    }
}

/// `(start, length)` of the pieces of `0..total`, each at most `size` long (0: one piece).
pub fn pieces(total: i64, size: usize) -> impl Iterator<Item = (i64, i64)> {
    let size = if size == 0 { total } else { size as i64 }.max(1);
    (0..total).step_by(size as usize).map(move |start| (start, size.min(total - start)))
}

impl JsonSchema for MicroBatch {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "MicroBatch".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^(auto|[0-9]+)$", "minimum": 0 })
    }
}

impl FromStr for MicroBatch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Samples).map_err(|_| {
                format!("`{text}` is not a micro-batch; write \"auto\", or a number of samples (0: the whole batch)")
            }),
        }
    }
}

impl fmt::Display for MicroBatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Samples(samples) => write!(f, "{samples}"),
        }
    }
}

impl Serialize for MicroBatch {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Samples(samples) => serializer.serialize_u64(*samples as u64),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatch {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        typed(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::pieces;

    #[test]
    fn pieces_cover_everything_once() {
        assert_eq!(pieces(7, 3).collect::<Vec<_>>(), [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(pieces(7, 0).collect::<Vec<_>>(), [(0, 7)]);
        assert_eq!(pieces(2, 5).collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(pieces(0, 0).count(), 0);
    }
}
