//! Reads JSON as Python writes it.

use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// Like `serde_json::from_str`, but accepts NaN, Infinity and -Infinity, which Python's `json` writes and JSON does not
/// have. They are read as strings, so a value that must be a number still gives an error.
pub fn from_str<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&quoted(text))
}

/// The text with NaN, Infinity and -Infinity in quotes.
pub fn quoted(text: &str) -> Cow<'_, str> {
    const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !NUMBERS[1..].iter().any(|number| text.contains(number)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut inside) = (text, false);
    while let Some(next) = rest.chars().next() {
        let number = NUMBERS.into_iter().find(|number| !inside && rest.starts_with(number));
        let length = match (number, next) {
            (Some(number), _) => {
                out.extend(['"'].into_iter().chain(number.chars()).chain(['"']));
                rest = &rest[number.len()..];
                continue;
            }
            (None, '\\') if inside => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (None, '"') => {
                inside = !inside;
                1
            }
            (None, other) => other.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn numbers_that_are_none() {
        let text = r#"{"a": -Infinity, "b": [NaN,Infinity], "NaN": "a \"NaN\" -Infinity \\", "c": 1.5, "ü": "ü"}"#;
        let value: Value = from_str(text).unwrap();
        let expected =
            json!({ "a": "-Infinity", "b": ["NaN", "Infinity"], "NaN": "a \"NaN\" -Infinity \\", "c": 1.5, "ü": "ü" });
        assert_eq!(value, expected);
        for broken in ["{\"a\": NaNo}", "{\"a\": --Infinity}", "{\"a\": \"NaN", "{\"a\": \"NaN\\"] {
            assert!(from_str::<Value>(broken).is_err(), "{broken}");
        }
    }
}
