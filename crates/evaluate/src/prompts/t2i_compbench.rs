//! T2I-CompBench: `color_val.txt` and the other prompt files.

use super::{Prompt, Task};
use anyhow::{Result, bail};
use benchmarks::{
    records::Metric,
    t2i_compbench::{
        Category, blip_vqa, clip, nouns,
        numeracy::Nouns,
        protocol,
        spatial::Locality,
        three_in_one::{Kind, Kinds},
    },
};
use entities::Parser;
use std::path::Path;

/// Reads the given categories, or all that the folder has. There is no depth network here, so `3d_spatial` cannot be
/// scored.
pub fn read(folder: &Path, categories: &[String]) -> Result<Vec<Prompt>> {
    let chosen = match categories {
        [] => there(folder)?,
        names => names.iter().map(|name| name.parse()).collect::<Result<Vec<Category>>>()?,
    };
    if chosen.contains(&Category::Spatial3d) {
        bail!("3d_spatial cannot be scored: it needs a network that tells depth, which comat does not have");
    }
    let parser = Parser::shipped()?;
    let mut prompts = vec![];
    for category in chosen {
        let texts = protocol::read_prompts(&folder.join(category.prompt_file()))?;
        let asker = Asker::new(category, folder, &parser)?;
        let prompt = |(number, text): (u64, String)| Prompt {
            id: number.to_string(),
            category: category.name().into(),
            kind: asker.kinds.as_ref().map(|kinds| kinds.of(&text)),
            tasks: asker.tasks(&text),
            text,
            number,
        };
        prompts.extend((0..).zip(texts).map(prompt));
    }
    Ok(prompts)
}

fn there(folder: &Path) -> Result<Vec<Category>> {
    let all = Category::ALL.into_iter();
    let (left_out, there): (Vec<_>, Vec<_>) = all
        .filter(|category| folder.join(category.prompt_file()).is_file())
        .partition(|category| *category == Category::Spatial3d);
    if !left_out.is_empty() {
        tracing::warn!("3d_spatial is left out: it needs a network that tells depth");
    }
    if there.is_empty() && !folder.exists() {
        bail!("{}: no such file or folder", folder.display());
    }
    if there.is_empty() && !folder.is_dir() {
        bail!("{}: this is a file; name the folder of T2I-CompBench's prompt files", folder.display());
    }
    if there.is_empty() {
        bail!("{}: there are no prompts of T2I-CompBench in it (color_val.txt and the like)", folder.display());
    }
    Ok(there)
}

/// Makes the tasks of a category's prompts.
struct Asker<'a> {
    category: Category,
    parser: &'a Parser,
    /// Kinds of the complex prompts.
    kinds: Option<Kinds>,
    /// Nouns that are counted.
    nouns: Option<Nouns>,
}

impl<'a> Asker<'a> {
    fn new(category: Category, folder: &Path, parser: &'a Parser) -> Result<Self> {
        let kinds = (category == Category::Complex).then(|| Kinds::read(folder)).transpose()?;
        let counts = category == Category::Numeracy;
        let nouns = counts.then(|| Nouns::read(&folder.join("new_objects.txt"))).transpose()?;
        Ok(Self { category, parser, kinds, nouns })
    }

    fn tasks(&self, text: &str) -> Vec<Task> {
        let kind = self.kinds.as_ref().map(|kinds| kinds.of(text));
        let counts = |metric: &&Metric| match metric {
            Metric::Spatial => kind != Some(Kind::Action),
            Metric::Clip => kind != Some(Kind::Spatial),
            _ => true,
        };
        self.category.metrics().iter().filter(counts).filter_map(|metric| self.task(*metric, text)).collect()
    }

    fn task(&self, metric: Metric, text: &str) -> Option<Task> {
        let complex = self.category == Category::Complex;
        Some(match metric {
            Metric::BlipVqa => Task::Attributes(blip_vqa::questions(self.parser, text)),
            Metric::Clip if complex => Task::Similarity(clip::text_without_adjectives(self.parser, text)),
            Metric::Clip => Task::Similarity(text.into()),
            Metric::Spatial => {
                let objects =
                    if complex { nouns::complex(self.parser, text) } else { nouns::simple(self.parser, text) };
                Task::Places { objects, locality: Locality::of(text) }
            }
            Metric::Numeracy => Task::Counts(self.nouns.as_ref()?.wanted(self.parser, text)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tasks_of_the_categories() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let spatial = "The black mug was next to the brown plate.";
        let action = "The fluffy cat was lying on the soft cushion.";
        write("spatial_val.txt", "a girl on the left of a lamp");
        write("3d_spatial_val.txt", "a dog behind a tree");
        write("numeracy_val.txt", "two mice and a dog");
        write("new_objects.txt", "mouse - mice\ndog - dogs\n");
        write("complex_val.txt", &format!("{spatial}\n{action}\n"));
        write("complex_val_spatial.txt", spatial);
        write("complex_val_action.txt", action);
        let prompts = read(folder.path(), &[]).unwrap();
        assert_eq!(
            prompts.iter().map(|p| p.category.as_str()).collect::<Vec<_>>(),
            ["spatial", "numeracy", "complex", "complex"]
        );
        let objects = Some(["person".to_owned(), "lamp".to_owned()]);
        assert_eq!(prompts[0].tasks, [Task::Places { objects, locality: Some(Locality::Left) }]);
        let Task::Counts(wanted) = &prompts[1].tasks[0] else { panic!() };
        assert_eq!(
            wanted.iter().map(|w| (w.number, w.object.as_str())).collect::<Vec<_>>(),
            [(2, "mouse"), (1, "dog")]
        );
        // CLIP does not count for a spatial prompt, nor position for an action
        let metrics = |i: usize| prompts[i].tasks.iter().map(Task::metric).collect::<Vec<_>>();
        assert_eq!((metrics(2), prompts[2].kind), (vec![Metric::BlipVqa, Metric::Spatial], Some(Kind::Spatial)));
        assert_eq!((metrics(3), prompts[3].kind), (vec![Metric::BlipVqa, Metric::Clip], Some(Kind::Action)));
        assert_eq!(prompts[3].tasks[1], Task::Similarity("The cat was lying on the cushion .".into()));
        let error = |name: &str| read(folder.path(), &[name.into()]).unwrap_err().to_string();
        assert!(error("3d_spatial").contains("tells depth"));
        assert!(error("colour").contains("not a category"));
        let error = |name: &str| read(&folder.path().join(name), &[]).unwrap_err().to_string();
        assert!(error("none").ends_with("none: no such file or folder"));
        assert!(error("new_objects.txt").contains("this is a file; name the folder"));
    }
}
