//! Attention maps of a prompt's words: the cross-attention of a whole trajectory, over the resulting image.

mod panel;
mod store;

pub use panel::panel;
pub use store::{Store, read};

use crate::{conditions::GuidedText, denoiser::Denoiser, pipeline::Pipeline, random, settings::Sampling, trajectory};
use anyhow::{Context, Result, bail};
use images::{Image, slug};
use indicatif::ProgressBar;
use models::{
    Error,
    network::{Layer, Network},
    schedule::Sampler,
    tokenizer::Encoding,
};
use ranks::interrupt::Interrupt;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};
use torch_ext::{Generator, parallel};

/// A word of a prompt, as the text encoder sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    pub text: String,
    /// Positions in the padded sequence of tokens; at least one.
    pub tokens: Vec<i64>,
}

/// The words of a prompt in order, without punctuation. Words that the text encoder does not see are left out.
pub fn words(prompt: &str, encoding: &Encoding) -> Vec<Word> {
    let mut words = vec![];
    let mut at = 0;
    for part in prompt.split_inclusive(char::is_whitespace) {
        let text = part.trim_matches(|c: char| !c.is_alphanumeric());
        let start = at + part.find(text).unwrap_or(0);
        let tokens = encoding.tokens_of(&(start..start + text.len()));
        if !text.is_empty() && !tokens.is_empty() {
            words.push(Word { text: text.into(), tokens });
        }
        at += part.len();
    }
    words
}

/// Maps of a batch, summed over the steps of a trajectory.
#[derive(Default)]
pub struct Sum {
    /// `[B, L, h, w]`
    maps: Option<Tensor>,
    steps: usize,
}

impl Sum {
    /// Adds a denoising step: the mean over its layers; each layer is the mean over modules and heads, resized to the
    /// resolution of the finest layer.
    pub fn add(&mut self, layers: &[Layer]) {
        let Some(size) = layers.iter().map(|layer| [layer.height, layer.width]).max() else { return };
        let fine = |layer: &Layer| {
            let of_modules: Vec<Tensor> = layer.modules.iter().map(|m| m.mean_dim(1, false, None)).collect();
            let mean = Tensor::stack(&of_modules, 0).mean_dim(0, false, None); // [B, h·w, L]
            let maps = mean.transpose(1, 2).unflatten(2, [layer.height, layer.width]);
            maps.upsample_bilinear2d(size, false, None, None)
        };
        let step = Tensor::stack(&layers.iter().map(fine).collect::<Vec<_>>(), 0).mean_dim(0, false, None);
        self.maps = Some(match self.maps.take() {
            Some(sum) => sum + step,
            None => step,
        });
        self.steps += 1;
    }

    /// For one sample, the share of a cell's attention that goes to each word: `[words, h, w]`.
    pub fn of(&self, sample: i64, words: &[Word]) -> Result<Tensor> {
        let maps = self.maps.as_ref().context("the UNet has no cross-attention in its middle or on its way up")?;
        let maps = maps.get(sample) / self.steps as f64;
        let of_word = |word: &Word| {
            maps.index_select(0, &Tensor::from_slice(&word.tokens).to_device(maps.device())).sum_dim_intlist(
                [0].as_slice(),
                false,
                None,
            )
        };
        match words {
            [] => Ok(maps.narrow(0, 0, 0)),
            words => Ok(Tensor::stack(&words.iter().map(of_word).collect::<Vec<_>>(), 0)),
        }
    }
}

/// Like [`trajectory::walk`], and records the attention; also returns x_0.
pub fn walk(
    denoiser: &Denoiser,
    sampler: &Sampler,
    text: &GuidedText,
    start: Tensor,
    noise: impl FnMut(usize) -> Result<Tensor>,
    each: impl FnMut() -> Result<()>,
) -> Result<(Tensor, Sum)> {
    let mut sum = Sum::default();
    let predict = |x: &Tensor, time| {
        let (e, layers) = denoiser.predict_with_maps(x, time, text)?;
        sum.add(&layers);
        Ok(e)
    };
    let walked = trajectory::walk(predict, sampler, start, &BTreeSet::new(), noise, each)?;
    Ok((walked.latents, sum))
}

/// An image, and the attention maps of its prompt's words.
pub struct Heatmaps {
    pub image: Image,
    /// `[words, h, w]`, for the words that are shown.
    pub maps: Tensor,
}

/// What to generate, and where to write it.
pub struct Request {
    pub prompts: Vec<String>,
    /// The words to show, in the order of the prompt; empty: all of them.
    pub only: Vec<String>,
    pub seed: u64,
    pub sampling: Sampling,
    /// LoRA files with their strengths; panels compare images with and without them.
    pub loras: Vec<(PathBuf, f64)>,
    pub out: PathBuf,
    pub overwrite: bool,
}

/// Draws a panel for every prompt: the image and its words, with the adapter below those of the original model. Returns
/// the files.
pub fn run(
    mut pipeline: Pipeline,
    request: &Request,
    bar: &ProgressBar,
    interrupt: &Interrupt,
) -> Result<Vec<PathBuf>> {
    let sampling = &request.sampling;
    let sampler = pipeline.noise_path.sampler(sampling.sampler, sampling.steps, sampling.eta)?;
    let size = sampling.size.unwrap_or(pipeline.native_size());
    let shape = pipeline.latent_shape(size)?;
    let seen: Vec<Vec<Word>> = request
        .prompts
        .iter()
        .map(|prompt| chosen(prompt, &pipeline.text.tokens(prompt)?, &request.only))
        .collect::<Result<_>>()?;
    let files = files(request)?;
    let negative = (!sampling.negative_prompt.is_empty()).then_some(sampling.negative_prompt.as_str());
    let guidance = sampling.guidance();
    let tuned = (!request.loras.is_empty()).then_some(("tuned", &request.loras[..]));
    let mut sides = vec![];
    for (side, loras) in [("base", &[][..])].into_iter().chain(tuned) {
        let unet = pipeline.adapt(loras)?;
        let mut text = |prompt| pipeline.text.guided(&[prompt], negative, guidance.is_on(), (size.height, size.width));
        let texts = request.prompts.iter().map(|prompt| text(prompt)).collect::<Result<Vec<_>>>()?;
        sides.push((side, unet, texts));
    }
    fs::create_dir_all(&request.out).map_err(Error::io(&request.out))?;
    bar.set_length((request.prompts.len() * sides.len() * sampler.len()) as u64);

    for (i, ((prompt, words), file)) in request.prompts.iter().zip(&seen).zip(&files).enumerate() {
        let draw = |unet: &dyn Network, text: &GuidedText| -> Result<Heatmaps> {
            let streams = vec![Generator::seeded(request.seed)?];
            let (start, noise) = random::noise(&sampler, streams, shape, (Kind::Float, pipeline.device))?;
            let start = sampler.start(start);
            let each = || {
                bar.inc(1);
                Ok(interrupt.check()?)
            };
            let denoiser = Denoiser { network: unet, guidance, kind: pipeline.kind };
            let (latents, sum) = walk(&denoiser, &sampler, text, start, noise, each)?;
            let image = tch::no_grad(|| {
                pipeline.vae.with(|vae| parallel::over_rows(&latents, |latents| Ok(vae.decode(latents)?)))
            })? / 2.0
                + 0.5;
            Ok(Heatmaps { image: Image::from_tensor(&image.get(0))?, maps: sum.of(0, words)? })
        };
        let draw = |(side, unet, texts): &(_, Box<dyn Network>, Vec<_>)| Ok((*side, draw(unet.as_ref(), &texts[i])?));
        let rows = sides.iter().map(draw).collect::<Result<Vec<_>>>()?;
        let rows: Vec<(&str, &Heatmaps)> = rows.iter().map(|(side, looks)| (*side, looks)).collect();
        let texts: Vec<&str> = words.iter().map(|w| w.text.as_str()).collect();
        let settings =
            crate::generate::parameters(sampling, prompt, request.seed, size, &pipeline.name, &request.loras);
        panel(&texts, &rows).save(file, &[("parameters", &settings), ("prompt", prompt)])?;
    }
    Ok(files)
}

/// The requested words of a prompt.
fn chosen(prompt: &str, encoding: &Encoding, only: &[String]) -> Result<Vec<Word>> {
    let all = words(prompt, encoding);
    let same = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    if let Some(stranger) = only.iter().find(|asked| !all.iter().any(|word| same(&word.text, asked))) {
        let known: Vec<&str> = all.iter().map(|word| word.text.as_str()).collect();
        bail!("`{stranger}` is not a word of `{prompt}` that the text encoder sees; those are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|word| only.is_empty() || only.iter().any(|asked| same(&word.text, asked))).collect())
}

fn files(request: &Request) -> Result<Vec<PathBuf>> {
    let name = |(i, prompt): (usize, &String)| {
        request.out.join(format!("{i:05}-{}-seed{}-attention.png", slug(prompt), request.seed))
    };
    let files: Vec<PathBuf> = request.prompts.iter().enumerate().map(name).collect();
    match files.iter().find(|file| Path::exists(file)) {
        Some(file) if !request.overwrite => {
            bail!("{} exists already; choose another --out, or pass --overwrite", file.display())
        }
        _ => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::network::Place;

    /// One token for every two bytes of a word, after the start token; the encoder sees the first `seen` of them.
    fn encoding(prompt: &str, seen: usize) -> Encoding {
        let mut spans = vec![None];
        let mut at = 0;
        for word in prompt.split(' ') {
            spans.extend((at..at + word.len()).step_by(2).map(|i| Some(i..(i + 2).min(at + word.len()))));
            at += word.len() + 1;
        }
        spans.truncate(1 + seen);
        spans.resize(20, None);
        Encoding { ids: vec![0; 20], spans, cut: None }
    }

    #[test]
    fn words_and_their_tokens() {
        let prompt = "a \"red\" dog,  and a dog";
        let found = words(prompt, &encoding(prompt, 99));
        let expected: [(&str, &[i64]); 6] =
            [("a", &[1]), ("red", &[2, 3]), ("dog", &[5, 6]), ("and", &[7, 8]), ("a", &[9]), ("dog", &[10, 11])];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (text, tokens)) in found.iter().zip(expected) {
            assert_eq!((found.text.as_str(), found.tokens.as_slice()), (text, tokens), "{found:?}");
        }
        assert_eq!(words(prompt, &encoding(prompt, 4)).len(), 2, "what is cut off is no word");
        assert_eq!(words("", &encoding("", 9)), []);
        assert_eq!(words("... !", &encoding("... !", 9)), []);
        assert!(chosen(prompt, &encoding(prompt, 99), &["cat".into()]).unwrap_err().to_string().contains("`cat`"));
        assert_eq!(chosen(prompt, &encoding(prompt, 99), &["Dog".into()]).unwrap().len(), 2);
    }

    /// Two steps of two layers, one of them coarse; two heads, two modules.
    #[test]
    fn maps_are_means_brought_to_one_resolution() {
        let map = |values: &[f32], cells: i64| Tensor::from_slice(values).view([1, -1, cells, 2]); // [B, heads, cells, L]
        let coarse =
            Layer { place: Place::Mid, height: 1, width: 1, modules: vec![map(&[0.2, 0.8], 1), map(&[0.4, 0.6], 1)] };
        let fine = |a: f32| Layer {
            place: Place::Up,
            height: 2,
            width: 1,
            modules: vec![map(&[a, 1.0 - a, 0.0, 1.0, a, 1.0 - a, 0.2, 0.8], 2)],
        };
        let mut sum = Sum::default();
        assert!(sum.of(0, &[]).is_err());
        sum.add(&[Layer { modules: coarse.modules.iter().map(Tensor::shallow_clone).collect(), ..coarse }, fine(0.5)]);
        sum.add(&[fine(0.1)]);
        let word = |tokens: &[i64]| Word { text: "x".into(), tokens: tokens.to_vec() };
        let maps = sum.of(0, &[word(&[0]), word(&[0, 1])]).unwrap();
        assert_eq!(maps.size(), [2, 2, 1]);
        let found = Vec::<f32>::try_from(maps.flatten(0, -1)).unwrap();
        // first step: (0.3 + 0.5) / 2 and (0.3 + 0.1) / 2; second: 0.1 and 0.1
        let expected = [0.25, 0.15, 1.0, 1.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        assert_eq!(sum.of(0, &[]).unwrap().size()[0], 0);
    }
}
