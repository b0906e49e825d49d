//! Autoencoder between images and latents, for any architecture.

use crate::error::Result;
use tch::{Kind, Tensor};

pub trait Autoencoder: Sync {
    /// Precision of the computation.
    fn kind(&self) -> Kind;

    /// Channels of the latents.
    fn channels(&self) -> i64;

    /// Image pixels along the side of a latent cell.
    fn downscale(&self) -> i64;

    /// Scale of the latents: the network sees `(latents - shift) * scale`.
    fn scale(&self) -> f64;

    /// Shift of the latents, as in [`Autoencoder::scale`].
    fn shift(&self) -> f64 {
        0.0
    }

    /// Image `[B, 3, H, W]` in -1..1 → mean and log-variance `[B, C, h, w]` of the latents, neither shifted nor scaled.
    ///
    /// # Errors
    /// If the images have another shape.
    fn encode(&self, image: &Tensor) -> Result<(Tensor, Tensor)>;

    /// Latents as the network sees them `[B, C, h, w]` → image `[B, 3, H, W]`, about -1..1, not clamped, in the latents' precision.
    ///
    /// # Errors
    /// If the latents have another shape.
    fn decode(&self, latents: &Tensor) -> Result<Tensor>;

    /// Number of stages of [`Autoencoder::decode`], run one after the other: the backward pass holds one stage's graph
    /// at a time.
    fn decode_stages(&self) -> usize;

    /// One stage of [`Autoencoder::decode`]. The first takes latents in the decoder's precision, each later one the
    /// output of the stage before; the last returns the image.
    fn decode_stage(&self, stage: usize, x: &Tensor) -> Tensor;

    /// Latents of images `[B, 3, H, W]` in -1..1, as the network sees them: the mean of the encoder's distribution.
    ///
    /// # Errors
    /// The same as [`Autoencoder::encode`].
    fn latents(&self, image: &Tensor) -> Result<Tensor> {
        let mean = self.encode(image)?.0;
        Ok(if self.shift() == 0.0 { mean * self.scale() } else { (mean - self.shift()) * self.scale() })
    }
}
