//! Everything that latents depend on.

use anyhow::Result;
use config::{Config, Sampling, Size};
use diffusion::pipeline::Pipeline;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Everything that latents depend on, besides their prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Fingerprint of the model's weights.
    pub model: String,
    pub seed: u64,
    pub sampling: Sampling,
    pub size: Size,
    /// Channels, height and width.
    pub shape: [i64; 3],
}

impl Origin {
    /// The origin of the latents that a run needs.
    pub fn of(config: &Config, pipeline: &Pipeline) -> Result<Self> {
        let size = config.sampling.size.unwrap_or(pipeline.native_size());
        let fidelity = config.fidelity.clone().unwrap_or_default();
        let guidance_scale = fidelity.guidance_scale.unwrap_or(config.sampling.guidance_scale);
        Ok(Self {
            model: pipeline.fingerprint()?,
            seed: fidelity.latents_seed,
            sampling: Sampling { size: None, guidance_scale, ..config.sampling.clone() },
            size,
            shape: pipeline.latent_shape(size)?,
        })
    }

    /// Descriptions of what differs in another origin.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = vec![];
        if self.model != other.model {
            all.push(format!("of another model (fingerprint {}, not {})", self.model, other.model));
        }
        if self.seed != other.seed {
            all.push(format!("from seed {}, not {}", self.seed, other.seed));
        }
        if (self.size, self.shape) != (other.size, other.shape) {
            all.push(format!("of images of {}, not {}", self.size, other.size));
        }
        if self.sampling != other.sampling {
            let [ours, theirs] = [self, other].map(|origin| serde_json::to_value(&origin.sampling).unwrap_or_default());
            for (key, value) in theirs.as_object().into_iter().flatten() {
                if ours[key] != *value {
                    all.push(format!("sampled with {key} = {}, not {value}", ours[key]));
                }
            }
        }
        all
    }

    /// A shard's tensor, to be filled.
    pub(super) fn blank(&self, rows: usize) -> Tensor {
        Tensor::zeros([&[rows as i64], self.shape.as_slice()].concat(), (Kind::Half, Device::Cpu))
    }

    /// Bytes of one latent.
    pub(super) fn bytes(&self) -> u64 {
        2 * self.shape.iter().product::<i64>() as u64
    }
}
