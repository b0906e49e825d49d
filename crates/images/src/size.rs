//! Width and height.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de, ser};
use std::{borrow::Cow, fmt, str::FromStr};

/// Width and height in pixels, typed as `768x512`, or `512` for a square.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    pub width: i64,
    pub height: i64,
}

impl Size {
    /// The most pixels along a side.
    const MOST: i64 = 16384;
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "pattern": "^ *[1-9][0-9]* *(x *[1-9][0-9]* *)?$", "minimum": 1 })
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        match (width.trim().parse::<i64>(), height.trim().parse::<i64>()) {
            (Ok(width), Ok(height)) if width.max(height) > Self::MOST => {
                Err(format!("`{text}` is too large; {} pixels a side are the most", Self::MOST))
            }
            (Ok(width), Ok(height)) if width > 0 && height > 0 => Ok(Self { width, height }),
            _ => Err(format!("`{text}` is not a size; write WIDTHxHEIGHT, for example 768x512, or 512 for a square")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        typed(deserializer)
    }
}

impl Serialize for Size {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is typed as text or as a number, read by `FromStr`.
///
/// # Errors
/// Those of `FromStr`.
pub fn typed<'de, T: FromStr<Err = String>, D: de::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a whole number")]
    enum Typed {
        Text(String),
        Number(i64),
    }
    let text = match Typed::deserialize(deserializer)? {
        Typed::Text(text) => text,
        Typed::Number(number) => number.to_string(),
    };
    text.parse().map_err(de::Error::custom)
}
