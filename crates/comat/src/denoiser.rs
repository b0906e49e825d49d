//! The UNet with guidance, as the function of latents and timestep that a sampler walks along.

use crate::text::GuidedText;
use models::{Result, guidance::Guidance, unet::UNet};
use tch::{Kind, Tensor};

pub struct Denoiser<'a> {
    pub unet: &'a UNet,
    pub guidance: Guidance,
    /// The precision that the UNet runs in.
    pub kind: Kind,
}

impl Denoiser<'_> {
    /// Guided model output for latents `[B, C, h, w]`, in their precision. Both halves run as one batch.
    pub fn predict(&self, latents: &Tensor, timestep: i64, text: &GuidedText) -> Result<Tensor> {
        let input = latents.to_kind(self.kind);
        let rows = latents.size()[0];
        let timesteps = |rows: i64| Tensor::full([rows], timestep, (Kind::Int64, latents.device()));
        match &text.both {
            Some(both) => {
                let out = self.unet.forward(&Tensor::cat(&[&input, &input], 0), &timesteps(2 * rows), both)?;
                let halves = out.to_kind(latents.kind()).chunk(2, 0);
                Ok(self.guidance.combine(&halves[0], &halves[1]))
            }
            None => Ok(self.unet.forward(&input, &timesteps(rows), &text.cond)?.to_kind(latents.kind())),
        }
    }
}
