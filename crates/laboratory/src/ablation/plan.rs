//! Which variants are trained, and how they are evaluated.

use crate::baselines::Baseline;
use anyhow::{Context, Result, bail};
use models::Error;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// `ablation.toml`. In settings, `{out}` stands for the ablation's folder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The base configuration of all variants.
    pub config: PathBuf,
    /// Seeds; every variant is trained once with each.
    pub seeds: Vec<u64>,
    /// Prompts that are sampled and judged.
    pub prompts: PathBuf,
    /// Images of each prompt, each from a seed of its own.
    pub count: usize,
    /// Number of rendered images with captions to create in `{out}/pairs`.
    #[serde(default)]
    pub pairs: usize,
    /// Settings of all variants, `key=value` as for `comat train --set`.
    #[serde(default)]
    pub settings: Vec<String>,
    /// The first variant is the reference for comparisons.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub name: String,
    #[serde(default)]
    pub settings: Vec<String>,
    /// Another method in place of CoMat.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// The base model itself: nothing is trained.
    #[serde(default)]
    pub untrained: bool,
    /// Candidates of each image; the captioner keeps one.
    #[serde(default = "one")]
    pub best_of: usize,
}

fn one() -> usize {
    1
}

impl Plan {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let plan: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            anyhow::anyhow!("{}:{line}: {}", path.display(), e.message().replace("missing field", "missing key"))
        })?;
        plan.check().with_context(|| path.display().to_string())?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        if self.seeds.is_empty() || self.variants.is_empty() || self.count == 0 {
            bail!("an ablation needs a seed, a variant and an image of each prompt at least");
        }
        let seeds: BTreeSet<u64> = self.seeds.iter().copied().collect();
        let folders: BTreeSet<String> = self.variants.iter().map(Variant::folder).collect();
        if seeds.len() < self.seeds.len() || folders.len() < self.variants.len() {
            bail!("a seed or the name of a variant is there twice");
        }
        let fault = |v: &Variant| Some(format!("variant `{}`: {}", v.name, v.fault()?));
        self.variants.iter().find_map(fault).map_or(Ok(()), |fault| bail!(fault))
    }
}

impl Variant {
    fn fault(&self) -> Option<&'static str> {
        match self {
            _ if self.folder().is_empty() => Some("its name needs a letter or a digit"),
            Self { best_of: 0, .. } => Some("best_of is 1 or more"),
            Self { untrained: true, baseline: Some(_), .. } => Some("untrained has no baseline"),
            _ => self.baseline.as_ref().and_then(Baseline::fault),
        }
    }

    /// Its name as a folder name: letters and digits, with single dashes between.
    pub fn folder(&self) -> String {
        let words: Vec<String> =
            self.name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        words.join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Plan> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        fs::write(&path, text).unwrap();
        Plan::read(&path)
    }

    const HEAD: &str = "config = 'a.toml'\nprompts = 'p.jsonl'\ncount = 2\nseeds = [1, 2]\n";

    #[test]
    fn a_plan_is_read() {
        let plan =
            read(&format!("{HEAD}[[variant]]\nname = 'caption'\n[[variant]]\nname = '+ Fidelity (0.1)'\n")).unwrap();
        let folders: Vec<String> = plan.variants.iter().map(Variant::folder).collect();
        assert_eq!((folders, plan.pairs), (vec!["caption".to_owned(), "fidelity-0-1".to_owned()], 0));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let error = |text: &str| format!("{:#}", read(text).unwrap_err());
        let variant = "[[variant]]\nname = 'a'\n";
        assert!(error(&format!("{HEAD}{variant}set = []\n")).contains("plan.toml:7: unknown field `set`"));
        assert!(error(HEAD).contains("missing key `variant`"));
        assert!(error(&format!("{HEAD}{variant}{variant}")).contains("is there twice"));
        assert!(error(&format!("{HEAD}[[variant]]\nname = '+'\n")).contains("needs a letter or a digit"));
        assert!(error(&format!("{HEAD}{variant}best_of = 0\n")).contains("variant `a`: best_of is 1 or more"));
        let dpo = "baseline = { kind = 'dpo', prompts = 4, of = 2, steps = 3, batch = 2 }\n";
        assert!(error(&format!("{HEAD}{variant}{dpo}")).contains("dpo needs a beta"));
        let dpo = dpo.replace("batch = 2", "batch = 2, beta = 1");
        assert!(error(&format!("{HEAD}{variant}{dpo}untrained = true\n")).contains("untrained has no baseline"));
        assert!(error(&format!("{HEAD}{variant}{}", dpo.replace("of = 2", "of = 1"))).contains("of is 2 or more"));
        assert!(error(&format!("{HEAD}{variant}{}", dpo.replace("dpo", "ppo"))).contains("plan.toml:7"));
        assert!(error(&format!("{}{variant}", HEAD.replace("[1, 2]", "[]"))).contains("needs a seed"));
    }
}
