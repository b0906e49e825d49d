//! DSG (Cho et al. 2024): yes-or-no questions that depend on each other. "Is the dog red?" counts only if there is a
//! dog. DPG-Bench (Hu et al. 2024) uses the same form.

pub mod dpg;
mod reading;
mod rule;

pub use reading::{Form, Items, read};
pub use rule::{Rule, Scored, score};

/// A prompt and its questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `whoops_5`
    pub id: String,
    pub text: String,
    pub questions: Vec<Question>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Number of the question in its item, from 1.
    pub number: u32,
    pub text: String,
    /// Numbers of the questions that must be answered with "yes" for this one to count. Empty if there are none; the
    /// files write this as 0.
    pub parents: Vec<u32>,
    /// `entity`, `attribute`, `relation`, `global` or `other`; may be empty.
    pub category: String,
    /// `attribute - color (rubix cube, purple)`; may be empty.
    pub tuple: String,
}

impl Item {
    /// The group of prompts that DSG's authors report on (dsg/data_utils.py); for other ids, the part before the last
    /// `_`.
    pub fn category(&self) -> &str {
        let source = self.id.rsplit_once('_').map_or(self.id.as_str(), |(source, _)| source);
        let groups = [
            ("tifa", "tifa"),
            ("stanford", "paragraph"),
            ("localized", "paragraph"),
            ("countbench", "count"),
            ("vrd", "relation"),
            ("diffusion", "real_user"),
            ("midjourney", "real_user"),
            ("posescript", "pose"),
            ("whoops", "defying"),
            ("drawtext", "text"),
        ];
        groups.iter().find(|(part, _)| self.id.contains(part)).map_or(source, |(_, group)| group)
    }
}

impl Question {
    /// The type of question, as DSG's authors report it: `entity`, `attribute`, `relation` or `global`; otherwise the
    /// category in the file.
    pub fn question_type(&self) -> &str {
        let types = [
            ("entity", "entity"),
            ("attribute", "attribute"),
            ("other", "attribute"),
            ("relation", "relation"),
            ("action", "relation"),
            ("global", "global"),
        ];
        types.iter().find(|(part, _)| self.tuple.contains(part)).map_or(&self.category, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_questions() {
        let of = |tuple: &str| {
            let (text, category) = (String::new(), "mine".to_owned());
            Question { number: 1, text, parents: vec![], category, tuple: tuple.into() }.question_type().to_owned()
        };
        assert_eq!(of("entity - whole (dog)"), "entity");
        assert_eq!(of("other - count (dogs, ==4)"), "attribute");
        assert_eq!(of("action - (dog, runs)"), "relation");
        assert_eq!(of("global - style (oil)"), "global");
        assert_eq!(of(""), "mine");
    }

    #[test]
    fn groups_of_prompts() {
        let of = |id: &str| Item { id: id.into(), text: String::new(), questions: vec![] }.category().to_owned();
        assert_eq!((of("tifa160_12"), of("stanford_paragraph_3")), ("tifa".into(), "paragraph".into()));
        assert_eq!((of("my_own_7"), of("seven")), ("my_own".into(), "seven".into()));
    }
}
