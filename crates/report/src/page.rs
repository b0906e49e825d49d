//! The frame of a report page, and its simplest parts.

use anyhow::{Context, Result, ensure};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use models::write_text;
use std::{fs::File, io::Read, path::Path};

/// A whole page.
pub struct Page<'a> {
    pub title: &'a str,
    pub body: Markup,
    /// CSS of this page only.
    pub style: &'a str,
    /// JavaScript of this page only.
    pub script: &'a str,
}

impl Page<'_> {
    pub fn html(&self) -> String {
        let Self { title, body, style, script } = self;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) }
                    style { (PreEscaped(include_str!("page.css"))) (PreEscaped(style)) }
                }
                body {
                    main { (body) }
                    dialog {}
                    script { (PreEscaped(include_str!("page.js"))) (PreEscaped(script)) }
                }
            }
        };
        page.into_string()
    }

    /// Writes the file, whole or not at all. It may replace another page.
    ///
    /// # Errors
    /// The file exists and is not a page.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut start = [0; 15];
        let there = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        let is_page = start.eq_ignore_ascii_case(b"<!doctype html>");
        ensure!(
            !path.exists() || (there.is_ok() && is_page),
            "{}: it exists and is no page of a report; choose another name for the page",
            path.display()
        );
        write_text(path, &self.html()).context("writing the report")
    }
}

/// A part of the page under a heading.
pub fn section(id: &str, heading: &str, body: &Markup) -> Markup {
    html! {
        section id=(id) {
            h2 { (heading) }
            (body)
        }
    }
}

/// A part that is folded at first.
pub fn folded(summary: &str, body: &Markup) -> Markup {
    html! {
        details {
            summary { (summary) }
            (body)
        }
    }
}

/// A table of names and values, such as the settings of a run.
pub fn settings(rows: &[(String, String)]) -> Markup {
    html! {
        table .settings {
            tbody {
                @for (key, value) in rows {
                    tr { th scope="row" { (key) } td { (value) } }
                }
            }
        }
    }
}

/// A few numbers, each with its name.
pub fn facts(facts: &[(&str, String)]) -> Markup {
    html! {
        dl .facts {
            @for (name, value) in facts {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// Terms and their meanings.
pub fn terms<'a>(terms: impl IntoIterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        dl .terms {
            @for (term, text) in terms { dt { (term) } dd { (text) } }
        }
    }
}

/// Commands, each given as its words, and quoted for a shell.
pub fn commands(commands: &[Vec<String>]) -> Markup {
    html! {
        div .commands {
            @for words in commands.iter().filter_map(|words| shlex::try_join(words.iter().map(String::as_str)).ok()) { code { (words) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_file_and_escapes_text() {
        let body = section("s", "a < b", &settings(&[("k<".into(), "v&".into())]));
        let folded = folded("<i>", &commands(&[vec!["a".into(), "b > c".into()]]));
        let body = html! { (body) (folded) };
        let page = Page { title: "</title>", body, style: "", script: "" };
        let html = page.html();
        for part in
            ["<title>&lt;/title&gt;</title>", "<h2>a &lt; b</h2>", "k&lt;", "v&amp;", "&lt;i&gt;", "a 'b &gt; c'"]
        {
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
