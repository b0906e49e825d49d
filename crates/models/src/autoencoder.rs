//! An autoencoder between images and latents, whatever its layers are.

use crate::error::Result;
use tch::{Kind, Tensor};

pub trait Autoencoder {
    /// The precision that it computes in.
    fn kind(&self) -> Kind;

    /// Of the latents.
    fn channels(&self) -> i64;

    /// Image pixels along the side of a latent cell.
    fn downscale(&self) -> i64;

    /// The network sees `(latents - shift) * scale`: what scale is.
    fn scale(&self) -> f64;

    /// What shift is.
    fn shift(&self) -> f64 {
        0.0
    }

    /// Image `[B, 3, H, W]` in -1..1 → mean and log-variance `[B, C, h, w]` of the latents, neither shifted nor scaled.
    ///
    /// # Errors
    /// Images of another shape.
    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor)>;

    /// Latents as the network sees them `[B, C, h, w]` → image `[B, 3, H, W]`, about -1..1, not clamped, in the latents' precision.
    ///
    /// # Errors
    /// Latents of another shape.
    fn decode(&self, latents: &Tensor) -> Result<Tensor>;

    /// How many parts, one after the other, [`Autoencoder::decode`] consists of: the way back holds one graph at a time.
    fn decode_stages(&self) -> usize;

    /// One part of [`Autoencoder::decode`]. The first takes latents in the decoder's precision, each other what the one before it gave;
    /// the last gives the image.
    fn decode_stage(&self, stage: usize, x: &Tensor) -> Tensor;

    /// The latents of images `[B, 3, H, W]` in -1..1, as the network sees them: the mean of what the encoder gives.
    ///
    /// # Errors
    /// As of [`Autoencoder::encode`].
    fn latents(&self, image: &Tensor) -> Result<Tensor> {
        let mean = self.encode(image)?.0;
        Ok(if self.shift() == 0.0 { mean * self.scale() } else { (mean - self.shift()) * self.scale() })
    }
}
