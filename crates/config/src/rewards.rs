//! `[[reward]]`: what images are trained for beside the caption loss.

use super::{Location, in_range};
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A further reward, beside the caption loss: a network that says how good an image is for its prompt. It computes in
/// `model.dtype`, on as many images at a time as `captioner.micro_batch` says.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    /// Which reward.
    pub kind: RewardKind,
    /// Folder of its network, or an id of the hub.
    pub path: Location,
    /// Weight of the reward: its mean over the batch, times this, is subtracted from the loss. 0 only logs it.
    #[schemars(range(min = 0.0))]
    #[serde(default = "Reward::default_weight")]
    pub weight: f64,
    /// Of `certainty`: lists of words of which an object has one at most, as `[["red", "blue", "green"], ["striped", "plain"]]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Vec<String>>,
    /// Name in logs (`reward_NAME`): letters, digits, `_` and `-`. Absent: its kind. Two rewards of a kind need two names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The kind of a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RewardKind {
    /// CLIP's cosine of image and prompt (-1 to 1); a CLIP folder in transformers layout.
    Clip,
    /// Another captioner, as `captioner.path` names one: the mean log-likelihood of a token of the prompt. Prefix, reduction, label
    /// smoothing and the weight of the end are those of `[captioner]`. Two captioners are harder to fool than one.
    Captioner,
    /// How certain a captioner is of what the prompt leaves open: each word of a list in `words` is put before each noun that has none
    /// of them (`a striped star`: `a striped red star`), and the reward is the log-probability of the likeliest among them, a mean over
    /// such places. Against colours without a name, and what else images lose where no prompt looks.
    Certainty,
}

impl Reward {
    pub fn name(&self) -> &str {
        match (&self.name, self.kind) {
            (Some(name), _) => name,
            (None, RewardKind::Clip) => "clip",
            (None, RewardKind::Captioner) => "captioner",
            (None, RewardKind::Certainty) => "certainty",
        }
    }

    fn default_weight() -> f64 {
        1.0
    }
}

/// Refuses names that logs cannot tell apart.
pub(super) fn check(rewards: &[Reward]) -> Result<()> {
    for (i, reward) in rewards.iter().enumerate() {
        in_range(&[(&format!("reward[{i}].weight"), reward.weight, f64::MAX)])?;
        check_words(i, reward)?;
        let name = reward.name();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            bail!("reward[{i}].name is `{name}`; write letters, digits, `_` and `-`");
        }
        if name == "caption" {
            bail!("reward[{i}].name is `caption`, which is the caption loss; choose another name");
        }
        if let Some(first) = rewards[..i].iter().position(|other| other.name() == name) {
            bail!("reward[{first}] and reward[{i}] are both called `{name}`; give one of them another `name`");
        }
    }
    Ok(())
}

fn check_words(i: usize, reward: &Reward) -> Result<()> {
    if reward.kind != RewardKind::Certainty {
        if !reward.words.is_empty() {
            bail!("reward[{i}].words is for kind = \"certainty\" only");
        }
        return Ok(());
    }
    if reward.words.is_empty() {
        bail!(
            "reward[{i}].words is missing; write lists of words of which an object has one at most: \
             words = [[\"red\", \"blue\", \"green\"]]"
        );
    }
    for list in &reward.words {
        let distinct: BTreeSet<String> = list.iter().map(|word| word.to_lowercase()).collect();
        if distinct.len() < list.len().max(2) {
            bail!("reward[{i}].words has the list {list:?}; it needs two words or more, each of them once");
        }
        if let Some(word) = list.iter().find(|word| word.trim() != word.as_str() || word.is_empty()) {
            bail!("reward[{i}].words has {word:?}; a word is not empty, and has no space around it");
        }
    }
    Ok(())
}
