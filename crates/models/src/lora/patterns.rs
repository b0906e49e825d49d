//! peft's `rank_pattern` and `alpha_pattern`: regular expressions for the ends of layers' paths, each with a number.

use fancy_regex::Regex;
use serde_json::Value;

/// The patterns in the order of the file; the first one that matches counts.
#[derive(Default)]
pub struct Patterns(Vec<Pattern>);

struct Pattern {
    key: String,
    regex: Regex,
    value: f64,
}

impl Patterns {
    /// # Errors
    /// A short text: the value is not a JSON object, a key is not a regular expression, or a value is not a number.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or(format!("is {value}, not an object"))?;
        let pattern = |(key, value): (&String, &Value)| {
            let value = value.as_f64().ok_or(format!("`{key}` has {value}, not a number"))?;
            // matches the whole path, or the part after one of its dots
            let regex = Regex::new(&format!(r"^(.*\.)?({})$", translated(key)))
                .map_err(|e| format!("`{key}` is not a regular expression ({e})"))?;
            Ok(Pattern { key: key.clone(), regex, value })
        };
        Ok(Self(object.iter().map(pattern).collect::<Result<_, String>>()?))
    }

    /// The first pattern that matches one of a layer's names, and its number.
    ///
    /// # Errors
    /// A pattern whose match needs too much backtracking.
    pub fn first(&self, names: &[&str]) -> Result<Option<(&str, f64)>, String> {
        for Pattern { key, regex, value } in &self.0 {
            for name in names {
                match regex.is_match(name) {
                    Ok(true) => return Ok(Some((key, *value))),
                    Ok(false) => {}
                    Err(e) => return Err(format!("cannot be held against the pattern `{key}`: {e}")),
                }
            }
        }
        Ok(None)
    }
}

/// A regular expression of Python in our library's syntax: the end `\Z`, a bracket within a class, octal numbers.
fn translated(python: &str) -> String {
    let (mut out, mut rest, mut in_class) = (String::new(), python, false);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let octal: &str = &rest[..rest.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count()];
                // a number of one digit, or of two without a zero in front, is a group
                let is_octal = octal.len() == 3 || octal.starts_with('0');
                if let Some(code) = u32::from_str_radix(octal, 8).ok().filter(|_| is_octal) {
                    out += &format!(r"\x{{{code:x}}}");
                    rest = &rest[octal.len()..];
                } else if let Some(next) = rest.chars().next() {
                    out.extend(['\\', if next == 'Z' && !in_class { 'z' } else { next }]);
                    rest = &rest[next.len_utf8()..];
                } else {
                    out.push('\\');
                }
            }
            '[' if in_class => out += r"\[",
            '[' => {
                in_class = true;
                out.push('[');
                if let Some(after) = rest.strip_prefix('^') {
                    out.push('^');
                    rest = after;
                }
                // a bracket at the beginning of a class does not close it
                if let Some(after) = rest.strip_prefix(']') {
                    out += r"\]";
                    rest = after;
                }
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(patterns: &str, name: &str) -> Option<f64> {
        let value = serde_json::from_str(patterns).unwrap();
        Patterns::parse(&value).unwrap().first(&[name]).unwrap().map(|(_, value)| value)
    }

    /// The expected results are those of `peft.utils.other.get_pattern_key` of peft 0.21.
    #[test]
    fn as_peft_matches() {
        let name = "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k";
        for (pattern, expected) in [
            (r"to_k", true),
            (r"attn2.to_k", true),
            (r"attn2\\.to_k", true),
            (r".*attn2\\.to_k", true),
            (r"down_blocks.*to_[kv]", true),
            (r"^down_blocks\\..*", true),
            (r"to_(q|v)|to_k", true),
            (r"\\d+\\.attn\\d\\.to_k", true),
            (r"(?!attn1)attn\\d\\.to_k", true),
            (r"(?!attn2)attn\\d\\.to_k", false),
            (r"^attn2.to_k", false),
            (r"o_k", false),
            (r"to_", false),
            (r"attn2", false),
            (r"to_q|to_v", false),
            (r".*attn2\\.to_k\\Z", true),
            (r".*[[]?to_k", true),
            (r"[]t]o_k", true),
            (r"[^]x]o_k", true),
            (r".*to_\\153", true),
            (r".*to_\\161", false),
        ] {
            assert_eq!(first(&format!(r#"{{"{pattern}": 3}}"#), name).is_some(), expected, "{pattern}");
        }
    }

    #[test]
    fn the_first_one_counts() {
        let both = [r#"{"to_k": 1, ".*attn2.*": 2}"#, r#"{".*attn2.*": 2, "to_k": 1}"#];
        assert_eq!(both.map(|patterns| first(patterns, "a.attn2.to_k")), [Some(1.0), Some(2.0)]);
        assert_eq!(first(both[0], "a.attn2.to_q"), Some(2.0));
    }

    #[test]
    fn what_is_no_pattern() {
        for (text, part) in [
            (r#"{"to_[k": 1}"#, "`to_[k` is not a regular expression"),
            (r#"{"to_k": "many"}"#, "`to_k` has \"many\""),
            ("3", "is 3, not an object"),
        ] {
            let error = Patterns::parse(&serde_json::from_str(text).unwrap()).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
