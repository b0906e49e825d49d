//! Before the first step and after the last: opening a run anew or from a checkpoint, and saving it.

use super::Trainer;
use crate::{
    adapter,
    checkpoint::{self, State},
    config::Config,
    optim::AdamW,
    prompts::{self, Prompt},
    run::Run,
    session::{SegmenterOf, Session},
};
use anyhow::Result;
use indicatif::ProgressBar;

impl Trainer {
    /// Opens everything a run needs: anew, or from a checkpoint (`latest`, or its folder).
    pub fn open(config: Config, segmenter: SegmenterOf, resume: Option<&str>, bar: ProgressBar) -> Result<(Self, Run)> {
        let prompts = prompts::read(&config.prompts.train)?;
        let found = resume.map(|which| checkpoint::find(&config.output.join("checkpoints"), which)).transpose()?;
        let mut session = Session::open(config, segmenter)?;
        if let Some(attention) = &mut session.attention {
            attention.take_explicit(&prompts)?;
        }
        let (weights, kind, device) = (&session.pipeline.unet_weights, session.latent_kind(), session.pipeline.device);
        let mut changed = vec![];
        let (adapter, optimizer, step) = match &found {
            None => {
                let adapter = adapter::start(&session)?.trainable(kind, device);
                let optimizer = AdamW::new(session.config.optimizer.clone(), &adapter.flat);
                (adapter, optimizer, 0)
            }
            Some(path) => {
                let c = checkpoint::load(path, weights, &session.config, kind, device)?;
                c.state.check(session.config.seed, &digest(&prompts), path)?;
                changed = checkpoint::changed_settings(path, &session.config)?;
                (c.adapter, c.optimizer, c.state.step)
            }
        };
        let run = Run::open(&session.config, &prompts, found.is_some(), bar)?;
        Ok((Self { session, prompts, adapter, optimizer, step, changed }, run))
    }

    pub(super) fn save(&self, run: &mut Run) -> Result<()> {
        let config = &self.session.config;
        let state = State {
            step: self.step,
            seed: config.seed,
            prompts: digest(&self.prompts),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let keep = config.checkpoints.keep;
        let path = checkpoint::save(&run.checkpoints(), &state, &self.adapter, &self.optimizer, config, keep)?;
        run.saved(&path, self.step)
    }
}

/// Whether something that happens every so many steps (0: never) happens after this one.
pub fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Tells prompt files apart.
pub fn digest(prompts: &[Prompt]) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    prompts.iter().for_each(|p| hasher.update(format!("{}\n", p.text)));
    hasher.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}
