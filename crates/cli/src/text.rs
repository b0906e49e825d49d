//! Text for users and for shells.

pub use models::text::counted;

/// Quotes a text so that a shell takes it as one word.
pub fn quoted(text: &str) -> String {
    shlex::try_quote(text).unwrap_or(text.into()).into_owned() // only a zero byte cannot be quoted; no path holds one
}
