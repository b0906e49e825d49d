//! The code in a Markdown text.

/// Commands and other code in their order: each line of an indented or fenced block, and each code span of a paragraph, be it
/// over a line's end. Lines continued by `\` are joined, and what `&&` connects is apart.
pub fn code(text: &str) -> Vec<String> {
    let (mut found, mut paragraph, mut fenced) = (vec![], String::new(), false);
    for line in text.replace("\\\n", " ").lines().chain([""]) {
        let fence = line.trim_start().starts_with("```");
        let in_block = fenced || line.starts_with("    ");
        if !fence && !in_block && !line.trim().is_empty() {
            paragraph += &format!("{} ", line.trim());
            continue;
        }
        found.extend(paragraph.split('`').skip(1).step_by(2).map(str::to_owned));
        paragraph.clear();
        if fence {
            fenced = !fenced;
        } else if in_block {
            let code = line.trim().trim_start_matches("$ ");
            found.extend(code.split(" && ").map(str::to_owned));
        }
    }
    found
}
