//! Models that are named by an id of the hub.

use super::{Attention, Config, HubOf, Judge, Location, Scaled, Segmenter};
use anyhow::{Context, Result};
use diffusion::pipeline::is_single_file;
use hub::{Layout, Progress};
use models::ldm;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where a model in a single file has its tokenizer from, unless another one is named.
const TOKENIZER: &str = "openai/clip-vit-large-patch14";

impl Config {
    /// Fetches all models and adapters that are named by an id. Everything that opens one comes after this.
    pub fn fetch(&mut self, hub: HubOf, progress: &dyn Progress) -> Result<()> {
        let (network, reader) = (Layout::Network { tokenizer: false }, Layout::Network { tokenizer: true });
        let variant = self.model.variant.as_deref();
        self.model.path.fetch(Layout::Diffusion, variant, hub, progress).context("model.path")?;
        fetch_tokenizer(&self.model.path, &mut self.model.tokenizer, hub, progress)?;
        self.captioner.path.fetch(reader, None, hub, progress).context("captioner.path")?;
        for (i, reward) in self.rewards.iter_mut().enumerate() {
            reward.path.fetch(reader, None, hub, progress).with_context(|| format!("reward[{i}].path"))?;
        }
        if let Some(Attention { segmenter: Segmenter::Grounded { detector, segmenter, .. }, .. }) = &mut self.attention
        {
            detector.fetch(reader, None, hub, progress).context("attention.segmenter.detector")?;
            segmenter.fetch(network, None, hub, progress).context("attention.segmenter.segmenter")?;
        }
        if let Some(model) = self.fidelity.as_mut().and_then(|fidelity| fidelity.model.as_mut()) {
            model.fetch(Layout::Diffusion, None, hub, progress).context("fidelity.model")?;
        }
        for Scaled { adapter, .. } in &mut self.lora.init.0 {
            adapter.fetch(hub, progress).context("lora.init")?;
        }
        if let Some(Judge::Clip { model }) = &mut self.validation.judge {
            model.fetch(reader, None, hub, progress).context("validation.judge.model")?;
        }
        Ok(())
    }

    /// What commits the ids stood for, by setting; none of models that are in folders.
    pub fn commits(&self) -> BTreeMap<String, &str> {
        let mut all = vec![("model.path", &self.model.path), ("captioner.path", &self.captioner.path)];
        all.extend(self.model.tokenizer.as_ref().map(|tokenizer| ("model.tokenizer", tokenizer)));
        if let Some(Attention { segmenter: Segmenter::Grounded { detector, segmenter, .. }, .. }) = &self.attention {
            all.extend([("attention.segmenter.detector", detector), ("attention.segmenter.segmenter", segmenter)]);
        }
        all.extend(self.fidelity.iter().filter_map(|f| Some(("fidelity.model", f.model.as_ref()?))));
        if let Some(Judge::Clip { model }) = &self.validation.judge {
            all.push(("validation.judge.model", model));
        }
        let single = self.lora.init.len() == 1;
        let key = |i| if single { "lora.init".to_owned() } else { format!("lora.init[{i}]") };
        let init = self.lora.init.iter().enumerate();
        let adapters = init.filter_map(|(i, scaled)| Some((key(i), scaled.adapter.commit()?)));
        let models = all.into_iter().filter_map(|(setting, location)| Some((setting.to_owned(), location.commit()?)));
        let rewards = self.rewards.iter().enumerate();
        let rewards = rewards.filter_map(|(i, reward)| Some((format!("reward[{i}].path"), reward.path.commit()?)));
        models.chain(adapters).chain(rewards).collect()
    }
}

/// Fetches the tokenizer that a model in a single file needs.
pub fn fetch_tokenizer(
    model: &Path,
    tokenizer: &mut Option<Location>,
    hub: HubOf,
    progress: &dyn Progress,
) -> Result<()> {
    if !is_single_file(model) {
        return Ok(());
    }
    let tokenizer = tokenizer.get_or_insert_with(|| PathBuf::from(TOKENIZER).into());
    let Err(error) = tokenizer.fetch(Layout::Tokenizer, None, hub, progress) else { return Ok(()) };
    ldm::Parts::check(model)?;
    Err(anyhow::Error::from(error).context(format!(
        "{} is a single file, which has no tokenizer (model.tokenizer and --tokenizer name a folder with one)",
        model.display()
    )))
}
