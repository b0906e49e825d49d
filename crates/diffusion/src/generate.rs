//! `comat generate`: from prompts to PNG files.

mod candidates;
mod noise;

use crate::{
    denoiser::Denoiser,
    pipeline::{Pipeline, wide},
    settings::Sampling,
    trajectory,
};
use anyhow::{Context, Result, bail};
use candidates::Drawn;
use images::{Image, Size, slug};
use indicatif::ProgressBar;
use models::{Error, network::Network, schedule::Sampler, tensors};
use noise::Noise;
use ranks::{ProcessGroup, interrupt::Interrupt};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};
use tch::Tensor;
use torch_ext::parallel;

pub use candidates::{Best, Loss};
pub use noise::Given;

/// What to generate, and where to write it.
pub struct Request {
    pub prompts: Vec<String>,
    /// Number of images of each prompt.
    pub count: usize,
    pub seed: u64,
    pub seeds: Seeds,
    pub sampling: Sampling,
    pub batch: usize,
    pub out: PathBuf,
    pub grid: bool,
    /// Writes `metadata.jsonl` with every image's prompt, so that the folder is a data set.
    pub metadata: bool,
    pub existing: Existing,
    /// LoRA files, each with its strength.
    pub loras: Vec<(PathBuf, f64)>,
    /// A file with `x_T` `[B, C, h, w]`, and `z` `[T, B, C, h, w]` for a stochastic sampler, in place of random noise.
    pub init_latents: Option<PathBuf>,
    /// File that `x_0` `[B, C, h, w]` is written to.
    pub save_latents: Option<PathBuf>,
}

/// What happens with files that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// An error before anything is drawn.
    #[default]
    Refuse,
    /// They are replaced.
    Replace,
    /// Images that an earlier run drew with the same settings from the same files stay; other images at their places are an
    /// error. The grid and the metadata are written anew. Not with `init_latents` or `save_latents`.
    Keep,
}

/// Key of the tensor in a file of latents.
const SAVED: &str = "x_0";

/// Which images share their noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seeds {
    /// Image i of every prompt has the seed `seed + i`, as in other programs.
    #[default]
    Shared,
    /// Every image has its own seed, derived from seed, prompt and i. Means over images then have independent noise.
    Own,
}

impl Seeds {
    /// The seed of a prompt's image.
    pub fn of(self, seed: u64, prompt: &str, image: u64) -> u64 {
        match self {
            Self::Shared => seed.wrapping_add(image),
            Self::Own => {
                let digest = Sha256::digest(format!("{seed} {image} {prompt}"));
                digest.iter().take(4).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
            }
        }
    }
}

/// One image to generate.
struct Job<'a> {
    prompt: &'a str,
    /// Seeds of its candidates; one of them is kept.
    seeds: Vec<u64>,
    /// Number and prompt, the beginning of its file name.
    name: String,
}

impl Job<'_> {
    fn path(&self, out: &Path, seed: u64) -> PathBuf {
        out.join(format!("{}-seed{seed}.png", self.name))
    }
}

/// Generates all images, each rank its share, into one folder; returns the files of all ranks. Files are written when
/// their batch is done, each of them as a whole.
///
/// # Errors
/// A file exists already and may not be replaced; given noise does not fit; an image is not finite; Ctrl-C.
pub fn run(
    mut pipeline: Pipeline,
    request: &Request,
    best: Option<Best>,
    bar: &ProgressBar,
    interrupt: &Interrupt,
    group: &ProcessGroup,
) -> Result<Vec<PathBuf>> {
    let sampling = &request.sampling;
    let sampler = pipeline.noise_path.sampler(sampling.sampler, sampling.steps, sampling.eta)?;
    let given = request.init_latents.as_deref().map(|path| Given::read(path, &sampler)).transpose()?;
    let size = size(&pipeline, sampling.size, given.as_ref())?;
    let shape = pipeline.latent_shape(size)?;
    let candidates = best.as_ref().map_or(1, |best| best.of.max(1));
    let jobs = jobs(request, candidates);
    group.of_first(|| nothing_is_replaced(request, &jobs))?;
    if let Some(given) = &given {
        given.check(jobs.len(), shape)?;
    }
    let unet = pipeline.adapt(&request.loras)?;
    fs::create_dir_all(&request.out).map_err(Error::io(&request.out))?;
    let mine = group.share(jobs.len());
    let origin = origin(&pipeline, request, best.as_ref())?;
    let clip_skip = pipeline.overrides.clip_skip;
    let settings = |prompt: &str, seed: u64, model: &Path| {
        let mut settings = parameters(sampling, prompt, seed, size, model, &request.loras);
        settings.extend(clip_skip.map(|skip| format!(", Clip skip: {skip}")));
        settings.extend(best.as_ref().map(|best| format!(", Best of: {}", best.of)));
        settings.extend(request.init_latents.as_ref().map(|given| format!(", Init latents: {}", file_name(given))));
        [settings, origin.clone()]
    };
    let found = |job: &Job| match request.existing {
        Existing::Keep => Saved::find(request, job, |seed| settings(job.prompt, seed, &pipeline.name)),
        _ => Ok(None),
    };
    let mut saved = jobs[mine.clone()].iter().map(found).collect::<Result<Vec<Option<Saved>>>>()?;
    let open: Vec<usize> = (0..mine.len()).filter(|i| saved[*i].is_none()).collect();
    bar.set_length((open.len() * candidates * sampler.len()) as u64);

    // several images at a time, or several candidates of one image
    let together = (request.batch / candidates).max(1);
    for part in open.chunks(together) {
        let first = (mine.start + part[0]) as i64;
        let part: Vec<(usize, &Job)> = part.iter().map(|i| (*i, &jobs[mine.start + i])).collect();
        let all: Vec<(usize, u64)> =
            part.iter().enumerate().flat_map(|(i, (_, job))| job.seeds.iter().map(move |seed| (i, *seed))).collect();
        let mut bests: Vec<Option<Drawn>> = part.iter().map(|_| None).collect();
        for batch in all.chunks(request.batch.max(1)) {
            let prompts: Vec<&str> = batch.iter().map(|(i, _)| part[*i].1.prompt).collect();
            let noise = match &given {
                Some(given) => Noise::Given { given, first, rows: batch.len() as i64 },
                None => Noise::seeded(batch.iter().map(|(_, seed)| *seed), shape)?,
            };
            let each = || {
                bar.inc(batch.len() as u64);
                Ok(interrupt.check()?)
            };
            let (drawn, images) =
                draw_batch(&mut pipeline, unet.as_ref(), sampling, &sampler, size, &prompts, noise, each)?;
            let losses = best.as_ref().map(|best| (best.loss)(&images, &prompts)).transpose()?;
            for (row, (i, seed)) in batch.iter().enumerate() {
                let loss = losses.as_ref().map(|losses| losses[row]);
                let (latents, image) = (drawn.get(row as i64), images.get(row as i64));
                Drawn { seed: *seed, loss, latents, image }.challenge(&mut bests[*i]);
            }
        }
        for ((place, job), drawn) in part.into_iter().zip(bests.into_iter().flatten()) {
            let settings = settings(job.prompt, drawn.seed, &pipeline.name);
            saved[place] = Some(Saved::write(request, job, drawn, &settings)?);
        }
    }
    let empty = Tensor::zeros([&[0], shape.as_slice()].concat(), (wide(pipeline.kind), pipeline.device));
    gather(saved.into_iter().flatten().collect(), request, &jobs, empty, size, group)
}

/// Identifies what images are drawn with, which their settings only name or leave out: model and LoRAs by what is in their
/// files.
fn origin(pipeline: &Pipeline, request: &Request, best: Option<&Best>) -> Result<String> {
    let vae = pipeline.vae.with(|vae| Ok(vae.kind()))?;
    let mut text = format!("{} {:?} {vae:?}", pipeline.fingerprint_of_images()?, pipeline.kind);
    text.extend(best.map(|best| best.of_captioner.to_owned()));
    for (path, _) in &request.loras {
        text += &models::digest(&fs::read(path).map_err(Error::io(path))?);
    }
    Ok(models::digest(text.as_bytes()))
}

/// Keys of the text chunks with an image's settings, and with what identifies the files that it was drawn with.
const SETTINGS: [&str; 2] = ["parameters", "comat"];

/// An image that is written.
struct Saved {
    seed: u64,
    loss: Option<f64>,
    /// `[1, C, h, w]`, if they were requested.
    latents: Option<Tensor>,
    /// If a grid was requested.
    image: Option<Image>,
}

impl Saved {
    /// Writes a job's image, with its settings in the metadata.
    fn write(request: &Request, job: &Job, drawn: Drawn, settings: &[String; 2]) -> Result<Self> {
        let Drawn { seed, loss, latents, image } = drawn;
        let image = Image::from_tensor(&image)?;
        let (seed_text, loss_text) = (seed.to_string(), loss.map(|loss| format!("{loss:.6}")));
        let mut texts = vec![("prompt", job.prompt), ("seed", &seed_text)];
        texts.extend(SETTINGS.iter().zip(settings).map(|(key, text)| (*key, text.as_str())));
        texts.extend(loss_text.as_ref().map(|loss| ("caption_loss", loss.as_str())));
        image.save(&job.path(&request.out, seed), &texts)?;
        let latents = request.save_latents.is_some().then(|| latents.unsqueeze(0));
        Ok(Self { seed, loss, latents, image: request.grid.then_some(image) })
    }

    /// A job's image of an earlier run.
    ///
    /// # Errors
    /// An image that was drawn with other settings, or cannot be read.
    fn find(request: &Request, job: &Job, settings: impl Fn(u64) -> [String; 2]) -> Result<Option<Self>> {
        for seed in job.seeds.iter().copied() {
            let path = job.path(&request.out, seed);
            if !path.exists() {
                continue;
            }
            let (image, texts) = Image::open_with_texts(&path)
                .with_context(|| format!("{} cannot be read; delete it, and it is drawn again", path.display()))?;
            if !SETTINGS.iter().zip(settings(seed)).all(|(key, text)| texts.get(*key) == Some(&text)) {
                bail!(
                    "{} was drawn with other settings or files; choose another --out, or pass --overwrite",
                    path.display()
                );
            }
            let loss = texts.get("caption_loss").and_then(|loss| loss.parse().ok());
            return Ok(Some(Self { seed, loss, latents: None, image: request.grid.then_some(image) }));
        }
        Ok(None)
    }
}

/// Writes the files about all images together; returns all files. `empty`: latents of no image, `[0, C, h, w]`.
fn gather(
    mine: Vec<Saved>,
    request: &Request,
    jobs: &[Job],
    empty: Tensor,
    size: Size,
    group: &ProcessGroup,
) -> Result<Vec<PathBuf>> {
    let seeds: Vec<i64> = mine.iter().map(|saved| saved.seed as i64).collect();
    let losses: Vec<f64> = mine.iter().map(|saved| saved.loss.unwrap_or(f64::NAN)).collect();
    let (latents, images): (Vec<_>, Vec<_>) = mine.into_iter().map(|saved| (saved.latents, saved.image)).unzip();
    let latents = match &request.save_latents {
        Some(_) => {
            let all: Vec<Tensor> = latents.into_iter().flatten().chain([empty]).collect();
            group.gather(&Tensor::cat(&all, 0), jobs.len())?
        }
        None => Tensor::new(),
    };
    let images = images.into_iter().flatten().collect();
    let images = if request.grid { of_all_ranks(images, size, jobs.len(), group)? } else { vec![] };
    group.barrier()?; // all files exist
    let seeds = Vec::<i64>::try_from(&group.gather(&Tensor::from_slice(&seeds), jobs.len())?)?;
    let losses = Vec::<f64>::try_from(&group.gather(&Tensor::from_slice(&losses), jobs.len())?)?;
    let mut files: Vec<PathBuf> =
        jobs.iter().zip(&seeds).map(|(job, seed)| job.path(&request.out, *seed as u64)).collect();
    if !group.leads() {
        return Ok(files);
    }
    if request.metadata {
        let path = request.out.join("metadata.jsonl");
        let text = metadata(jobs, &files, &seeds, &losses);
        models::write_text(&path, &text)?;
    }
    if request.grid {
        let columns = if request.count > 1 { request.count } else { (images.len() as f64).sqrt().ceil() as usize };
        let path = request.out.join("grid.png");
        Image::grid(&images, columns).save(&path, &[])?;
        files.push(path);
    }
    if let Some(path) = &request.save_latents {
        tensors::write(path, &tensors::Tensors::from([(SAVED.into(), latents)]), HashMap::new())?;
    }
    Ok(files)
}

/// Images and prompts in the format of Hugging Face's image folder, one line each.
fn metadata(jobs: &[Job], files: &[PathBuf], seeds: &[i64], losses: &[f64]) -> String {
    let mut text = String::new();
    for (((job, file), seed), loss) in jobs.iter().zip(files).zip(seeds).zip(losses) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let mut line = serde_json::json!({ "file_name": name, "text": job.prompt, "seed": *seed as u64 });
        if loss.is_finite() {
            line["caption_loss"] = (*loss).into();
        }
        text += &format!("{line}\n");
    }
    text
}

/// An image `[3, H, W]` (0..1, not clamped) of each prompt and seed, the same as [`run`] generates.
pub fn draw(
    pipeline: &mut Pipeline,
    unet: &dyn Network,
    sampling: &Sampling,
    jobs: &[(&str, u64)],
    each: impl FnMut() -> Result<()>,
) -> Result<Tensor> {
    let sampler = pipeline.noise_path.sampler(sampling.sampler, sampling.steps, sampling.eta)?;
    let size = sampling.size.unwrap_or(pipeline.native_size());
    let prompts: Vec<&str> = jobs.iter().map(|(prompt, _)| *prompt).collect();
    let noise = Noise::seeded(jobs.iter().map(|(_, seed)| *seed), pipeline.latent_shape(size)?)?;
    Ok(draw_batch(pipeline, unet, sampling, &sampler, size, &prompts, noise, each)?.1)
}

/// Latents `[B, C, h, w]` and images `[B, 3, H, W]`.
#[allow(clippy::too_many_arguments)]
fn draw_batch(
    pipeline: &mut Pipeline,
    unet: &dyn Network,
    sampling: &Sampling,
    sampler: &Sampler,
    size: Size,
    prompts: &[&str],
    noise: Noise,
    each: impl FnMut() -> Result<()>,
) -> Result<(Tensor, Tensor)> {
    let denoiser = Denoiser { network: unet, guidance: sampling.guidance(), kind: pipeline.kind };
    let negative = (!sampling.negative_prompt.is_empty()).then_some(sampling.negative_prompt.as_str());
    let text = pipeline.text.guided(prompts, negative, denoiser.guidance.is_on(), (size.height, size.width))?;
    let (start, noise) = noise.ready(sampler, (wide(pipeline.kind), pipeline.device))?;
    let (start, none) = (sampler.start(start), BTreeSet::new());
    let walked = trajectory::walk(denoiser.conditioned_on(&text), sampler, start, &none, noise, each)?;
    let images = tch::no_grad(|| {
        pipeline.vae.with(|vae| parallel::over_rows(&walked.latents, |latents| Ok(vae.decode(latents)?)))
    })? / 2.0
        + 0.5;
    if images.isfinite().all().int64_value(&[]) == 0 {
        bail!("the images of `{}` are not finite numbers; try --dtype float32 or bfloat16", prompts.join("`, `"));
    }
    Ok((walked.latents, images))
}

/// All settings of an image, in the format that image viewers and web interfaces for Stable Diffusion read.
pub fn parameters(
    sampling: &Sampling,
    prompt: &str,
    seed: u64,
    size: Size,
    model: &Path,
    loras: &[(PathBuf, f64)],
) -> String {
    let mut text = prompt.to_owned();
    if !sampling.negative_prompt.is_empty() {
        text += &format!("\nNegative prompt: {}", sampling.negative_prompt);
    }
    text += &format!(
        "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {seed}, Size: {size}, Model: {}",
        sampling.steps,
        sampling.sampler.title(),
        sampling.guidance_scale,
        file_name(model)
    );
    if sampling.guidance_rescale != 0.0 {
        text += &format!(", CFG rescale: {}", sampling.guidance_rescale);
    }
    if sampling.eta != 0.0 {
        text += &format!(", Eta: {}", sampling.eta);
    }
    for (path, scale) in loras {
        text += &format!(", Lora: {}:{scale}", name_of_lora(path));
    }
    text + &format!(", Version: comat {}", env!("CARGO_PKG_VERSION"))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The name that images give a LoRA, by which it is known from others: that of its file, of a run the run's. `runs/a/adapter/…` is `a`,
/// `runs/a/checkpoints/step-4/…` is `a/step-4`.
pub fn name_of_lora(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [.., run, "adapter" | "best", _] => run.to_owned(),
        [.., run, "checkpoints", step, _] => format!("{run}/{step}"),
        [.., folder, "pytorch_lora_weights.safetensors" | "adapter_model.safetensors"] => folder.to_owned(),
        _ => file_name(path),
    }
}

/// The images of all ranks, in order. They are sent by message, since a network file system may not show other ranks'
/// files yet.
fn of_all_ranks(mine: Vec<Image>, size: Size, total: usize, group: &ProcessGroup) -> Result<Vec<Image>> {
    if group.is_alone() {
        return Ok(mine);
    }
    let pixels = mine.iter().flat_map(|image| &image.pixels).copied().collect::<Vec<u8>>();
    let rows = Tensor::from_slice(&pixels).view([mine.len() as i64, size.height * size.width * 3]);
    let all = group.gather(&rows, total)?;
    let image = |pixels: Tensor| {
        let pixels = Vec::try_from(&pixels)?;
        Ok(Image { width: size.width as usize, height: size.height as usize, pixels })
    };
    if group.leads() { all.unbind(0).into_iter().map(image).collect() } else { Ok(vec![]) }
}

fn jobs(request: &Request, candidates: usize) -> Vec<Job<'_>> {
    let mut jobs = vec![];
    for prompt in &request.prompts {
        for image in 0..request.count {
            let numbers = image * candidates..(image + 1) * candidates;
            let seeds = numbers.map(|number| request.seeds.of(request.seed, prompt, number as u64)).collect();
            jobs.push(Job { prompt, seeds, name: format!("{:05}-{}", jobs.len(), slug(prompt)) });
        }
    }
    jobs
}

fn nothing_is_replaced(request: &Request, jobs: &[Job]) -> Result<()> {
    let (grid, metadata) = (request.out.join("grid.png"), request.out.join("metadata.jsonl"));
    let images = jobs.iter().flat_map(|job| job.seeds.iter().map(|seed| job.path(&request.out, *seed)));
    let others = [request.grid.then_some(grid), request.metadata.then_some(metadata)].into_iter().flatten();
    let paths: Vec<PathBuf> = images.chain(others).collect();
    if let Some(latents) = &request.save_latents {
        let place = models::place(latents);
        if let Some(taken) = paths.iter().chain(&request.init_latents).find(|file| models::place(file) == place) {
            bail!("--save-latents {}: that is {}; choose another file", latents.display(), taken.display());
        }
        // only a file of latents is overwritten by latents, never a user's model, LoRA or prompt file
        let is_latents = || tensors::read(latents).is_ok_and(|(all, _)| all.keys().eq([SAVED]));
        if latents.is_file() && !is_latents() {
            bail!("--save-latents {}: there is a file that holds no latents; choose another one", latents.display());
        }
    }
    if request.existing != Existing::Refuse {
        return others_stay(request, jobs);
    }
    match paths.into_iter().chain(request.save_latents.clone()).find(|path| path.exists()) {
        Some(path) => {
            let latents = Some(&path) == request.save_latents.as_ref();
            let others =
                if latents { "--save-latents, or pass --overwrite" } else { "--out, or pass --overwrite or --resume" };
            bail!("{} exists already; choose another {others}", path.display())
        }
        None => Ok(()),
    }
}

/// Images of other commands are left where they are. Said of files with names as of this one: whoever takes all images of the
/// folder takes those, too.
///
/// # Errors
/// With [`Existing::Keep`], such files: the command that is to go on was another one.
fn others_stay(request: &Request, jobs: &[Job]) -> Result<()> {
    let ours: BTreeSet<PathBuf> =
        jobs.iter().flat_map(|job| job.seeds.iter().map(|seed| job.path(&request.out, *seed))).collect();
    let entries = fs::read_dir(&request.out).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut others: Vec<PathBuf> = entries.filter(|path| is_numbered(path) && !ours.contains(path)).collect();
    others.sort();
    let Some(first) = others.first() else { return Ok(()) };
    let count = models::text::counted(others.len(), "image");
    if request.existing == Existing::Keep {
        bail!(
            "{count} of another command in {}, the first: {}; --resume takes the same prompts, --count and seeds, or choose \
             another --out",
            request.out.display(),
            file_name(first)
        );
    }
    tracing::warn!("{count} of another command stay in {}, the first: {}", request.out.display(), file_name(first));
    Ok(())
}

/// Whether a file has a name as those of [`Job::path`]: `00012-a-red-dog-seed42.png`.
fn is_numbered(path: &Path) -> bool {
    let name = file_name(path);
    let of = |name: &str| {
        let (number, rest) = name.strip_suffix(".png")?.split_once('-')?;
        let (_, seed) = rest.rsplit_once("-seed")?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Some(number.len() >= 5 && digits(number) && digits(seed))
    };
    of(&name).unwrap_or(false)
}

/// The requested size, or that of the given latents, or the model's own.
fn size(pipeline: &Pipeline, asked: Option<Size>, given: Option<&Given>) -> Result<Size> {
    let Some(given) = given else { return Ok(asked.unwrap_or(pipeline.native_size())) };
    let cell = pipeline.latents.downscale;
    let (_, _, height, width) = given.start.size4()?;
    let size = Size { width: width * cell, height: height * cell };
    match asked {
        Some(asked) if asked != size => bail!("--size {asked}, but the given latents make images of {size}"),
        _ => Ok(size),
    }
}
