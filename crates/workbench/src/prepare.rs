//! `comat prepare`: prepares a model for images smaller than its own.
//!
//! SDXL at 512 pixels gives cropped and shapeless objects, since it was hardly trained at that size. Before CoMat
//! trains it there, its authors fine-tune its UNet for some steps on its own images, sampled at 1024 pixels and reduced
//! (the paper's appendix). If there is too little memory for all weights of the UNet, a LoRA is trained, and then added
//! to them.

mod course;
mod own_images;
mod room;

use anyhow::{Result, bail};
use config::{Sampling, Size};
use course::Course;
use diffusion::{
    family::stable_diffusion,
    model_folder::{NewFolder, UNET},
    pipeline::Pipeline,
};
use indicatif::ProgressBar;
use models::schedule::Prediction;
use ranks::interrupt::Interrupt;
use std::path::PathBuf;
use tch::{Device, Kind};

pub struct Request {
    /// Prompts of the images; each is sampled once.
    pub prompts: Vec<String>,
    pub seed: u64,
    /// Sampling settings, at the model's own size.
    pub sampling: Sampling,
    /// The size that the model is prepared for.
    pub size: Size,
    pub tune: Tune,
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    /// Folder for `images/` and the LoRA; existing images are used as they are.
    pub work: PathBuf,
    /// The new model folder; it must not exist yet.
    pub out: PathBuf,
    /// Precision of the UNet's weights in the new folder; `None`: the model's own.
    pub kind: Option<Kind>,
}

/// The weights to train.
pub enum Tune {
    /// All weights of the UNet. Their float32 master copies, gradients and moments are on that device.
    Unet {
        optimizer_on: Device,
    },
    Lora {
        rank: i64,
        targets: Vec<String>,
    },
}

/// Mean squared error of the predicted noise on some images, before and after.
pub struct Prepared {
    pub before: f64,
    pub after: f64,
}

/// Opens a progress bar with a name.
pub type Bars<'a> = dyn Fn(&str) -> Result<ProgressBar> + 'a;

/// Samples missing images, trains, and writes the new folder.
///
/// # Errors
/// Anything that can be checked before the images are sampled is reported before that.
pub fn run(mut pipeline: Pipeline, request: &Request, bars: &Bars, interrupt: &Interrupt) -> Result<Prepared> {
    check(&pipeline, request)?;
    let folder = NewFolder::plan(&pipeline.path, &request.out, &[UNET], request.kind)?;
    match &request.tune {
        Tune::Unet { optimizer_on } => {
            room::check(pipeline.weights.parameter_count(), pipeline.kind, pipeline.device, *optimizer_on)?;
        }
        Tune::Lora { rank, targets } => drop(course::fresh(&pipeline, *rank, targets, request.seed)?), // check targets
    }
    let images = request.work.join("images");
    own_images::draw(&mut pipeline, request, &images, bars, interrupt)?;
    let latents = own_images::encode(&pipeline, request, &images, bars, interrupt)?;

    let mut course = match &request.tune {
        Tune::Unet { optimizer_on } => Course::of_unet(request, latents, &mut pipeline, *optimizer_on)?,
        Tune::Lora { rank, targets } => {
            let lora = course::fresh(&pipeline, *rank, targets, request.seed)?;
            Course::of_lora(request, latents, &pipeline, &lora)
        }
    };
    let before = course.measure(&mut pipeline, interrupt)?;
    course.train(&mut pipeline, bars, interrupt)?;
    let after = course.measure(&mut pipeline, interrupt)?;
    drop(pipeline);
    course.write(&folder, interrupt)?;
    Ok(Prepared { before, after })
}

fn check(pipeline: &Pipeline, request: &Request) -> Result<()> {
    stable_diffusion::class(&pipeline.path)?;
    let native = pipeline.native_size();
    if request.size.width * request.size.height >= native.width * native.height {
        bail!("--size {}: the model's own size is {native}; there is nothing to be prepared for", request.size);
    }
    if pipeline.schedule()?.prediction != Prediction::Epsilon {
        bail!(
            "this model predicts {:?}; only models that predict the noise can be prepared",
            pipeline.schedule()?.prediction
        );
    }
    pipeline.latent_shape(request.size)?;
    Ok(())
}
