//! The adapter that a run starts from.

use crate::session::Session;
use anyhow::{Result, bail};
use diffusion::random::{Purpose, stream};
use models::lora::Lora;

/// A fresh adapter as configured, or the one in the file that `lora.init` names, of its rank or a smaller one.
pub fn start(session: &Session) -> Result<Lora> {
    let (config, weights, seed) = (&session.config.lora, &session.pipeline.weights, session.config.seed);
    let draw = |layer: usize, shape: &[i64]| {
        let mut draws =
            stream(seed, Purpose::Adapter, 0, layer as u64).map_err(|e| models::Error::Input(e.to_string()))?;
        Ok(draws.randn(shape)?)
    };
    if let Some(path) = config.init.as_deref() {
        let lora = Lora::read(path, weights)?;
        if let Some((layer, pair)) = lora.pairs().find(|(_, p)| p.rank() > config.rank) {
            let (path, found) = (path.display(), pair.rank());
            bail!("{path}: {layer} has rank {found}, more than lora.rank = {}: set lora.rank = {found}", config.rank);
        }
        let layers = weights.layers(&config.targets).count();
        if lora.pairs().count() != layers {
            bail!("{}: it adapts {} layers, lora.targets name {layers}", path.display(), lora.pairs().count());
        }
        return Ok(lora.widened(config.rank, draw)?.with_alpha(config.alpha()));
    }
    Ok(Lora::fresh(weights, &config.targets, config.rank, config.alpha(), draw)?)
}
