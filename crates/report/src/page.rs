//! The frame of a report, and its simplest parts.

use super::html::Text;
use anyhow::{Context, Result};
use models::write_text;
use std::path::Path;

/// A whole page. The body is HTML, whatever else is text.
pub struct Page<'a> {
    pub title: &'a str,
    pub body: String,
    /// Style rules of this page alone.
    pub style: &'a str,
    /// What this page alone does in a browser.
    pub script: &'a str,
}

impl Page<'_> {
    pub fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n{}</main>\n<dialog></dialog>\n\
             <script>\n{}{}</script>\n</body>\n</html>\n",
            Text(self.title),
            include_str!("page.css"),
            self.style,
            self.body,
            include_str!("page.js"),
            self.script,
        )
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_text(path, &self.html()).context("writing the report")
    }
}

/// A part of the page under a heading.
pub fn section(id: &str, heading: &str, body: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{body}</section>\n", Text(heading))
}

/// A part that is closed at first.
pub fn folded(summary: &str, body: &str) -> String {
    format!("<details>\n<summary>{}</summary>\n{body}</details>\n", Text(summary))
}

/// Names and values, such as the settings of a run.
pub fn settings(rows: &[(String, String)]) -> String {
    let rows: String = rows
        .iter()
        .map(|(key, value)| format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", Text(key), Text(value)))
        .collect();
    format!("<table class=\"settings\">\n<tbody>\n{rows}</tbody>\n</table>\n")
}

/// A few numbers, each with what it is.
pub fn facts(facts: &[(&str, String)]) -> String {
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", Text(name), Text(value)))
        .collect();
    format!("<dl class=\"facts\">\n{facts}</dl>\n")
}

/// Commands, each given by its words, as a shell takes them.
pub fn commands(commands: &[Vec<String>]) -> String {
    let lines: String = commands
        .iter()
        .map(|words| words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" "))
        .map(|line| format!("<code>{}</code>\n", Text(line)))
        .collect();
    format!("<div class=\"commands\">\n{lines}</div>\n")
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=,:".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_file_and_escapes_text() {
        let body = section("s", "a < b", &settings(&[("k<".into(), "v&".into())]))
            + &folded("<i>", &commands(&[vec!["a".into(), "b > c".into()]]));
        let page = Page { title: "</title>", body, style: "", script: "" };
        let html = page.html();
        for part in [
            "<title>&lt;/title&gt;</title>",
            "<h2>a &lt; b</h2>",
            "k&lt;",
            "v&amp;",
            "&lt;i&gt;",
            "a &#39;b &gt; c&#39;",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for outside in ["http", "url(", "@import", "src=", "<link"] {
            assert!(!html.contains(outside), "{outside}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        page.save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), html);
        assert!(format!("{:#}", page.save(&folder.path().join("no/report.html")).unwrap_err()).contains("report.html"));
    }
}
