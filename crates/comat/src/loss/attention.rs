//! Attribute Concentration (section 3 of the method): the attention of a noun and its attributes should be on the
//! noun's object and nowhere else.

use super::step::{Replayed, StepLoss, Term, TermGradient};
use anyhow::{Context, Result};
use config::Form;
use models::network::Layer;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};
use torch_ext::{Shared, parallel};

/// The attention losses of some of the tracked steps.
pub struct Concentration<'a> {
    config: &'a config::Attention,
    steps: BTreeSet<usize>,
    /// Of each piece of the samples, by its start and length; `None` where no sample of it has a target.
    pieces: BTreeMap<(usize, usize), Option<Index>>,
}

impl<'a> Concentration<'a> {
    pub const TOKEN: &'static str = "token";
    pub const PIXEL: &'static str = "pixel";

    /// Copies the targets of every sample to the device, once for all steps: a copy in a step would wait for the steps
    /// before it. `micro_batch`: samples replayed at a time (0: all).
    pub fn new(
        config: &'a config::Attention,
        steps: BTreeSet<usize>,
        targets: &[Vec<Target>],
        micro_batch: usize,
        options: (Kind, Device),
    ) -> Self {
        let pieces = parallel::groups(targets.len() as i64, micro_batch, options.1).concat();
        let piece = |(start, length): (i64, i64)| {
            let (start, length) = (start as usize, length as usize);
            ((start, length), Index::of(&targets[start..start + length], options))
        };
        Self { config, pieces: pieces.into_iter().map(piece).collect(), steps }
    }
}

impl StepLoss for Concentration<'_> {
    fn steps(&self) -> &BTreeSet<usize> {
        &self.steps
    }

    fn looks_at_maps(&self) -> bool {
        true
    }

    fn terms(&self, seen: &Replayed) -> Result<Vec<Term>> {
        let index = self.pieces.get(&seen.rows).context("the attention losses know the pieces of the replay")?;
        let Some(index) = index.as_ref().filter(|_| has_maps(seen.maps)) else { return Ok(vec![]) };
        let parts = index.losses(self.config.form, seen.maps, seen.batch);
        let term = |name, part: Tensor, weight: f64| Term {
            name,
            value: part.detach(),
            gradient: TermGradient::Loss(part * weight),
        };
        Ok(vec![
            term(Self::TOKEN, parts.token, self.config.token_weight),
            term(Self::PIXEL, parts.pixel, self.config.pixel_weight),
        ])
    }
}

/// A noun as the text encoder sees it, and its place in the image.
pub struct Target {
    /// Positions of the noun and its attributes in the padded sequence of tokens; at least one.
    pub tokens: Vec<i64>,
    /// `[H, W]`, bool; all false where the noun was not found.
    pub mask: Tensor,
}

/// Both losses of one denoising step: scalars with a graph to the attention maps, means over the samples.
pub struct Parts {
    pub token: Tensor,
    pub pixel: Tensor,
}

/// The losses of the maps of some samples, as part of a batch of `batch` samples. `None` where no sample has a target.
///
/// Definitions for each layer (a place and a resolution of the UNet), with the map `A_k` of token k and the mask M of
/// an entity at the layer's resolution (a cell is in M if the mask touches it):
/// - token loss, `reference`: `(1 - mean over heads of sum(A_k M) / sum(A_k))^2`, mean over entities and tokens, summed
///   over the layer's modules; `paper`: `sum(A_k (1 - M)) / sum(A_k) - sum(A_k M) / sum(A_k)`, summed over the tokens,
///   with the mean over heads and modules in place of the single maps;
/// - pixel loss: the binary cross-entropy of M and the map of all the entity's tokens together, mean over heads and
///   modules, then over cells and entities. It is the same in both forms.
///
/// Both are summed over layers. A sample without targets counts as zero.
pub fn losses(form: Form, layers: &[Layer], targets: &[Vec<Target>], batch: usize) -> Option<Parts> {
    let like = layers.first()?.modules.first()?;
    Some(Index::of(targets, (like.kind(), like.device()))?.losses(form, layers, batch))
}

/// A network without cross-attention has none.
fn has_maps(layers: &[Layer]) -> bool {
    layers.first().is_some_and(|layer| !layer.modules.is_empty())
}

/// All tokens of all entities of all samples in one list, so that a layer takes only a few operations.
struct Index {
    /// Sample, position in the text, and entity of every token, each `[N]`.
    sample: Shared,
    position: Shared,
    entity: Shared,
    /// Weights `[N]` for the mean over a sample's entities of the mean over an entity's tokens.
    token_mean: Shared,
    /// Weights `[N]` for the mean over a sample's entities of the sum over an entity's tokens.
    token_sum: Shared,
    /// Weights `[E]` for the mean over a sample's entities.
    entity_mean: Shared,
    /// `[E, 1, H, W]`
    masks: Shared,
}

impl Index {
    /// `None` where no sample has a target. The options are those of the maps.
    fn of(targets: &[Vec<Target>], (kind, device): (Kind, Device)) -> Option<Self> {
        let (mut sample, mut position, mut entity) = (vec![], vec![], vec![]);
        let (mut token_mean, mut token_sum, mut entity_mean, mut masks) = (vec![], vec![], vec![], vec![]);
        for (row, targets) in targets.iter().enumerate() {
            let share = 1.0 / targets.len() as f64;
            for target in targets {
                for token in &target.tokens {
                    sample.push(row as i64);
                    position.push(*token);
                    entity.push(masks.len() as i64);
                    token_mean.push(share / target.tokens.len() as f64);
                    token_sum.push(share);
                }
                entity_mean.push(share);
                masks.push(target.mask.to_device(device).to_kind(Kind::Float));
            }
        }
        let whole = |values: &[i64]| Shared::from(Tensor::from_slice(values).to_device(device));
        let real = |values: &[f64]| Shared::from(Tensor::from_slice(values).to_kind(kind).to_device(device));
        (!masks.is_empty()).then(|| Self {
            sample: whole(&sample),
            position: whole(&position),
            entity: whole(&entity),
            token_mean: real(&token_mean),
            token_sum: real(&token_sum),
            entity_mean: real(&entity_mean),
            masks: Tensor::stack(&masks, 0).unsqueeze(1).into(),
        })
    }

    /// See [`losses`].
    fn losses(&self, form: Form, layers: &[Layer], batch: usize) -> Parts {
        let mut token = vec![];
        let mut pixel = vec![];
        for layer in layers {
            let masks = self.masks(layer.height, layer.width);
            let picked: Vec<Tensor> = layer.modules.iter().map(|m| self.pick(m)).collect();
            let over_heads: Vec<Tensor> = picked.iter().map(|m| m.mean_dim(1, false, None)).collect();
            let mean = Tensor::stack(&over_heads, 0).mean_dim(0, false, None);
            token.push(match form {
                Form::Reference => {
                    let of_module = |maps: &Tensor| {
                        let missed: Tensor = 1.0 - self.inside(maps, &masks).mean_dim(1, false, None);
                        (missed.square() * &*self.token_mean).sum(None)
                    };
                    Tensor::stack(&picked.iter().map(of_module).collect::<Vec<_>>(), 0).sum(None)
                }
                Form::Paper => {
                    let inside = self.inside(&mean.unsqueeze(1), &masks).squeeze_dim(1);
                    (inside * -2.0 + 1.0).multiply(&self.token_sum).sum(None)
                }
            });
            pixel.push(self.cross_entropy(&mean, &masks));
        }
        let total = |parts: Vec<Tensor>| Tensor::stack(&parts, 0).sum(None) / batch as f64;
        Parts { token: total(token), pixel: total(pixel) }
    }

    /// Masks at a layer's resolution, `[E, h·w]`: 1 where the mask touches the cell.
    fn masks(&self, height: i64, width: i64) -> Tensor {
        let resized = self.masks.internal_upsample_bilinear2d_aa([height, width], false, None, None);
        resized.flatten(1, 3).gt(0.0).to_kind(self.token_mean.kind())
    }

    /// The maps of the tokens, from those of a module: `[B, heads, h·w, L]` → `[N, heads, h·w]`.
    fn pick(&self, map: &Tensor) -> Tensor {
        map.permute([0, 3, 1, 2]).index(&[Some(&*self.sample), Some(&*self.position)])
    }

    /// Share of each token's attention `[N, heads, h·w]` that lies in the mask of its entity: `[N, heads]`.
    fn inside(&self, maps: &Tensor, masks: &Tensor) -> Tensor {
        let masks = masks.index_select(0, &self.entity).unsqueeze(1);
        let sum = |t: &Tensor| t.sum_dim_intlist([-1].as_slice(), false, None);
        sum(&(maps * masks)) / sum(maps)
    }

    /// Maps `[N, h·w]`, masks `[E, h·w]`. Not libtorch's own kernel: that aborts the program where a map is NaN.
    fn cross_entropy(&self, maps: &Tensor, masks: &Tensor) -> Tensor {
        // rounding may make a sum of probabilities larger than 1
        let together = masks.zeros_like().index_add(0, &self.entity, maps).clamp(0.0, 1.0);
        let log = |share: &Tensor| share.clamp_min(1e-12).log(); // the same lower bound as in libtorch's gradient
        let outside: Tensor = 1.0 - &together;
        let each = (masks * log(&together) + masks.eq(0.0) * log(&outside)) * -1.0;
        (each.mean_dim(1, false, None) * &*self.entity_mean).sum(None)
    }
}
