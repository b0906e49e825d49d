//! Decoding in overlapping tiles, and the backward pass through them.
//!
//! The decoder's memory grows with the image; a tile takes as much as an image of its size. Tiles overlap and are
//! blended linearly. The result is an approximation, since the decoder's normalisation and its attention see one tile
//! at a time. The gradient is exactly that of the tiled image.

use anyhow::{Result, ensure};
use tch::Tensor;

/// Square tiles, in latent pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiling {
    side: i64,
    overlap: i64,
}

/// The start of a tile along one axis, in latent pixels, and the weight of each of its image pixels.
struct Span {
    start: i64,
    length: i64,
    weights: Vec<f64>,
}

impl Tiling {
    /// # Errors
    /// An overlap of more than half a tile, or a tile without pixels.
    pub fn new(side: i64, overlap: i64) -> Result<Self> {
        ensure!(
            side >= 1 && overlap >= 0 && 2 * overlap <= side,
            "tiles of {side} latent pixels cannot overlap by {overlap}; at most half a tile may"
        );
        Ok(Self { side, overlap })
    }

    /// Latents `[B, C, h, w]` to images `[B, 3, h scale, w scale]`; `decode` does the same for one tile.
    pub fn decode(
        self,
        latents: &Tensor,
        scale: i64,
        mut decode: impl FnMut(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (rows, columns) = self.spans(latents, scale);
        let mut image = None;
        for row in &rows {
            for column in &columns {
                let tile = decode(&crop(latents, row, column, 1))? * weights(row, column, latents);
                let size = latents.size();
                let shape = [size[0], tile.size()[1], size[2] * scale, size[3] * scale];
                let whole = image.get_or_insert_with(|| tile.new_zeros(shape, (tile.kind(), tile.device())));
                let mut place = crop(whole, row, column, scale);
                place += tile;
            }
        }
        image.ok_or_else(|| anyhow::anyhow!("latents {:?} have no pixels", latents.size()))
    }

    /// `dL/d latents` from `dL/d images`; `vjp` does the same for one tile.
    pub fn vjp(
        self,
        latents: &Tensor,
        cotangent: &Tensor,
        scale: i64,
        mut vjp: impl FnMut(&Tensor, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (rows, columns) = self.spans(latents, scale);
        let gradient = latents.detach().zeros_like();
        for row in &rows {
            for column in &columns {
                let weighted = crop(cotangent, row, column, scale) * weights(row, column, cotangent);
                let mut place = crop(&gradient, row, column, 1);
                place += vjp(&crop(latents, row, column, 1), weighted)?;
            }
        }
        Ok(gradient)
    }

    fn spans(self, latents: &Tensor, scale: i64) -> (Vec<Span>, Vec<Span>) {
        let size = latents.size();
        (self.along(size[2], scale), self.along(size[3], scale))
    }

    /// The fewest tiles that cover `length` latent pixels, evenly spread, with weights that sum to 1 at every image
    /// pixel.
    fn along(self, length: i64, scale: i64) -> Vec<Span> {
        let side = self.side.min(length);
        let step = (self.side - self.overlap).max(1);
        let count = if side == length { 1 } else { (length - self.overlap + step - 1) / step };
        let start = |i: i64| if count == 1 { 0 } else { i * (length - side) / (count - 1) };
        // rises over the overlap from each edge that has a neighbour; edges of the image have none
        let raw = |i: i64, x: i64| {
            let rise = |at: i64, overlap: i64| ((at as f64 + 0.5) / (overlap * scale) as f64).min(1.0);
            let before = if i == 0 { 0 } else { start(i - 1) + side - start(i) };
            let behind = if i + 1 == count { 0 } else { start(i) + side - start(i + 1) };
            let left = if before > 0 { rise(x, before) } else { 1.0 };
            let right = if behind > 0 { rise(side * scale - 1 - x, behind) } else { 1.0 };
            left.min(right)
        };
        let mut sums = vec![0.0; (length * scale) as usize];
        for i in 0..count {
            (0..side * scale).for_each(|x| sums[(start(i) * scale + x) as usize] += raw(i, x));
        }
        let weight = |i, x| raw(i, x) / sums[(start(i) * scale + x) as usize];
        let span =
            |i| Span { start: start(i), length: side, weights: (0..side * scale).map(|x| weight(i, x)).collect() };
        (0..count).map(span).collect()
    }
}

/// A tile of the tensor, as a view.
fn crop(x: &Tensor, row: &Span, column: &Span, scale: i64) -> Tensor {
    x.narrow(2, row.start * scale, row.length * scale).narrow(3, column.start * scale, column.length * scale)
}

/// Weights of a tile's image pixels, `[H, W]`.
fn weights(row: &Span, column: &Span, like: &Tensor) -> Tensor {
    let tensor = |span: &Span| Tensor::from_slice(&span.weights);
    (tensor(row).unsqueeze(1) * tensor(column)).to_kind(like.kind()).to_device(like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::{autoencoder::Autoencoder, vae::AutoencoderKl};
    use std::path::Path;
    use tch::Kind;
    use torch_ext::testing::device;

    fn noise(shape: &[i64], seed: u64) -> Tensor {
        torch_ext::Generator::seeded(seed).unwrap().randn(shape).unwrap().to_kind(Kind::Double).to_device(device())
    }

    fn largest(x: Tensor) -> f64 {
        x.abs().max().double_value(&[])
    }

    /// For a decoder that works on single pixels, the tiled image is the same as the whole one.
    #[test]
    fn the_weights_sum_to_one() {
        let nearest = |z: &Tensor| Ok(z.upsample_nearest2d([z.size()[2] * 4, z.size()[3] * 4], None, None));
        for (side, overlap, height, width) in [(4, 1, 4, 4), (4, 2, 9, 13), (6, 0, 13, 6), (5, 2, 3, 17), (1, 0, 2, 3)]
        {
            let z = noise(&[2, 3, height, width], 1);
            let mut sides = vec![];
            let decode = |tile: &Tensor| {
                sides.push(tile.size()[2].max(tile.size()[3]));
                nearest(tile)
            };
            let tiled = Tiling::new(side, overlap).unwrap().decode(&z, 4, decode).unwrap();
            assert!(largest(tiled - nearest(&z).unwrap()) < 1e-12, "{side} {overlap}");
            assert!(sides.iter().all(|s| *s <= side), "{sides:?}");
        }
        assert!(Tiling::new(4, 3).is_err() && Tiling::new(0, 0).is_err());
    }

    #[test]
    fn the_gradient_is_that_of_the_tiled_image() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/vae");
        let vae = AutoencoderKl::open_variant(&folder, None, Kind::Double, device()).unwrap();
        let scale = vae.config().downscale();
        let decode = |z: &Tensor| Ok(vae.decode(z)?);
        let z = noise(&[2, vae.config().latent_channels, 11, 8], 1);
        let g = noise(&[2, 3, 11 * scale, 8 * scale], 2);
        let one_graph = |tiling: Tiling| {
            let x = z.detach().set_requires_grad(true);
            let image = tiling.decode(&x, scale, decode).unwrap();
            (torch_ext::vjp(&[&image], &[&x], &[&g]).unwrap().remove(0).unwrap(), image.detach())
        };
        let by_tiles = |tiling: Tiling| {
            let of_tile = |z: &Tensor, g: Tensor| {
                let x = z.detach().set_requires_grad(true);
                Ok(torch_ext::vjp(&[&vae.decode(&x)?], &[&x], &[&g])?.remove(0).unwrap())
            };
            tiling.vjp(&z, &g, scale, of_tile).unwrap()
        };
        let tiling = Tiling::new(6, 2).unwrap();
        let (expected, image) = one_graph(tiling);
        assert!(largest(by_tiles(tiling) - &expected) < 1e-12 * largest(expected));
        let whole = decode(&z).unwrap();
        assert!(largest(&image - &whole) > 1e-6, "tiles are seen alone");
        // one tile covers the image
        let large = Tiling::new(11, 2).unwrap();
        assert!(largest(one_graph(large).1 - whole) == 0.0);
    }
}
