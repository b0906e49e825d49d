//! The adapter that a run starts from.

use crate::session::Session;
use anyhow::{Result, bail};
use config::Scaled;
use diffusion::random::{Purpose, stream};
use models::lora::Lora;

/// A new adapter as configured, or the sum of the adapters that `lora.init` names, at their rank or a smaller one.
pub fn start(session: &Session) -> Result<Lora> {
    let (config, weights, seed) = (&session.config.lora, &session.pipeline.weights, session.config.seed);
    let draw = |layer: usize, shape: &[i64]| Ok(stream(seed, Purpose::Adapter, 0, layer as u64)?.randn(shape)?);
    if config.init.is_empty() {
        return Ok(Lora::fresh(weights, &config.targets, config.rank, config.alpha(), draw)?);
    }
    let layers = weights.layers(&config.targets).count();
    let mut all = vec![];
    for Scaled { adapter, scale } in config.init.iter() {
        let lora = Lora::read(adapter, weights)?;
        if lora.pairs().count() != layers {
            bail!("{}: it adapts {} layers, lora.targets name {layers}", adapter.display(), lora.pairs().count());
        }
        all.push(if *scale == 1.0 { lora } else { lora.scaled(*scale) });
    }
    let names = config.init.iter().map(|scaled| scaled.adapter.display().to_string()).collect::<Vec<_>>().join(", ");
    let Some(lora) = Lora::joined(&all) else { bail!("{names}: they adapt different layers") };
    if let Some((layer, pair)) =
        lora.pairs().max_by_key(|(_, pair)| pair.rank()).filter(|(_, pair)| pair.rank() > config.rank)
    {
        let (found, rank) = (pair.rank(), config.rank);
        let together = if all.len() > 1 { " together" } else { "" };
        bail!("{names}: {layer} has rank {found}{together}, more than lora.rank = {rank}: set lora.rank = {found}");
    }
    Ok(lora.widened(config.rank, draw)?.with_alpha(config.alpha()))
}
