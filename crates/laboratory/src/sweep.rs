//! `comat world sweep`: held-out prompts at several guidance scales, sampled with a base model and with LoRAs for it,
//! and judged.
//!
//! Guidance has some of the effect of fine-tuning. The benefit of fine-tuning is therefore the difference between the
//! tuned model at its best guidance and the base model at its own best. Each side's guidance is chosen on other prompts
//! than those that are judged.
//!
//! In the sweep's folder, `cells/` has the judgements of every cell: one model at one guidance with one set of prompts.
//! An existing cell is not sampled again, so a stopped sweep continues with the same command. `sweep.md` and
//! `sweep.json` have the results of all cells.

mod cells;
mod table;

pub use table::{Best, Chosen, Row, Side, Sweep};

use anyhow::{Result, bail};
use cells::Cell;
use diffusion::pipeline::Pipeline;
use indicatif::ProgressBar;
use models::write_text;
use models::{Error, weights};
use ranks::interrupt::Interrupt;
use scenes::judging::{Judged, Question};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// What to sample, and where to write the results.
#[derive(Debug, Clone)]
pub struct Request {
    /// LoRAs of several trainings with the same settings; may be empty.
    pub loras: Vec<PathBuf>,
    /// Name of these settings in the table.
    pub name: String,
    /// Guidance scales; 1 is no guidance.
    pub guidances: Vec<f64>,
    /// Prompts that are judged.
    pub questions: Vec<Question>,
    /// Prompts on which each side's guidance is chosen; not needed for a single guidance.
    pub choosing: Vec<Question>,
    /// Description of where those are from.
    pub chosen_on: String,
    /// Images of each prompt, each from a seed of its own.
    pub count: usize,
    /// Seed that the images' seeds are derived from.
    pub seed: u64,
    /// DDIM steps.
    pub steps: usize,
    /// Images sampled at a time.
    pub batch: usize,
    pub out: PathBuf,
}

/// The images of one model at one guidance.
struct At {
    /// Images of the prompts that choose the guidance.
    choosing: Vec<Judged>,
    /// Images of the prompts that are judged.
    judged: Vec<Judged>,
}

/// Samples and judges what is missing, and writes the tables.
///
/// # Errors
/// A LoRA that does not fit the model; files that cannot be read or written; [`Interrupted`](ranks::interrupt::Interrupted).
pub fn run(
    mut pipeline: Pipeline,
    request: &Request,
    bar: &dyn Fn(&str) -> Result<ProgressBar>,
    interrupt: &Interrupt,
) -> Result<Sweep> {
    let request = checked(request)?;
    // the table belongs to the figures beside it; alone it is somebody else's
    let table = request.out.join("sweep.md");
    if table.exists() && !request.out.join("sweep.json").exists() {
        bail!("{} exists, and no sweep wrote it; choose another --out", table.display());
    }
    let of_model = pipeline.fingerprint_of_images()?;
    let mut of_loras = vec![];
    for lora in &request.loras {
        let of_lora = weights::fingerprint_of(std::slice::from_ref(lora))?;
        if of_loras.contains(&of_lora) {
            bail!("{}: this LoRA is given twice; a training counts once", lora.display());
        }
        of_loras.push(of_lora);
        pipeline.adapt(&[(lora.clone(), 1.0)])?; // a LoRA that does not fit is reported now
    }
    let folder = request.out.join("cells");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let models = [None].into_iter().chain(request.loras.iter().zip(&of_loras).map(Some));
    let mut drawn: Vec<Vec<At>> = vec![];
    for (number, lora) in models.enumerate() {
        let (path, of_lora) = lora.map_or((None, None), |(path, print)| (Some(path), Some(print.as_str())));
        let name = match number {
            0 => "base".to_owned(),
            n => format!("{} {n}/{}", request.name, request.loras.len()),
        };
        let mut unet = None;
        let mut of_set = |guidance: f64, questions: &[Question]| -> Result<Vec<Judged>> {
            let cell = Cell::new(&request, questions, guidance, &pipeline, [Some(of_model.as_str()), of_lora])?;
            if let Some(judged) = cell.read(&folder)? {
                return Ok(judged);
            }
            let unet = match &mut unet {
                Some(unet) => unet,
                None => {
                    unet.insert(pipeline.adapt(&path.map(|path| (path.clone(), 1.0)).into_iter().collect::<Vec<_>>())?)
                }
            };
            let bar = bar(&format!("{name}, guidance {guidance}"))?;
            let judged = cell.draw(&mut pipeline, unet.as_ref(), request.batch, &bar, interrupt)?;
            bar.finish_and_clear();
            cell.write(&folder, &judged)?;
            Ok(judged)
        };
        let mut all = vec![];
        for &guidance in &request.guidances {
            let choosing = of_set(guidance, &request.choosing)?;
            all.push(At { choosing, judged: of_set(guidance, &request.questions)? });
        }
        drawn.push(all);
    }
    interrupt.check()?;
    let sweep = Sweep::new(&request, &pipeline.name, &drawn)?;
    write_text(&request.out.join("sweep.json"), &(serde_json::to_string_pretty(&sweep)? + "\n"))?;
    write_text(&request.out.join("sweep.md"), &sweep.to_string())?;
    Ok(sweep)
}

/// Checks the request: guidances sorted, every prompt once, and no choosing prompts if there is only one guidance.
fn checked(request: &Request) -> Result<Request> {
    let mut request = request.clone();
    request.guidances.sort_by(f64::total_cmp);
    request.guidances.dedup();
    match request.guidances.first() {
        None => bail!("--guidance: there is no guidance to draw at"),
        Some(_) if request.questions.is_empty() => bail!("there are no prompts to draw"),
        Some(_) if request.guidances.len() > 1 && request.choosing.is_empty() => {
            bail!("there are no prompts to choose the guidance on")
        }
        Some(_) if request.guidances.len() == 1 => request.choosing.clear(),
        Some(_) => {}
    }
    if request.name == "base" {
        bail!("--name base: this name stands for the model without a LoRA; choose another name");
    }
    for questions in [&mut request.questions, &mut request.choosing] {
        let mut seen = BTreeSet::new();
        questions.retain(|q| seen.insert(q.prompt.clone()));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::judging;

    pub(super) fn questions(text: &str) -> Vec<Question> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, text).unwrap();
        judging::questions(&path).unwrap()
    }

    pub(super) fn request() -> Request {
        Request {
            loras: vec![],
            name: "tuned".into(),
            guidances: vec![4.0, 1.0, 4.0],
            questions: questions("a red star\na blue circle above a green square\na red star\n"),
            choosing: questions("a heart\n"),
            chosen_on: "training prompts".into(),
            count: 2,
            seed: 0,
            steps: 10,
            batch: 4,
            out: "sweep".into(),
        }
    }

    #[test]
    fn a_request_is_put_in_order() {
        let good = checked(&request()).unwrap();
        assert_eq!((good.guidances, good.questions.len(), good.choosing.len()), (vec![1.0, 4.0], 2, 1));
        let one = checked(&Request { guidances: vec![2.0], ..request() }).unwrap();
        assert!(one.choosing.is_empty(), "there is no choice");
        let error = |bad: Request| checked(&bad).unwrap_err().to_string();
        assert!(error(Request { guidances: vec![], ..request() }).contains("no guidance"));
        assert!(error(Request { questions: vec![], ..request() }).contains("no prompts to draw"));
        assert!(error(Request { choosing: vec![], ..request() }).contains("to choose the guidance on"));
        assert!(error(Request { name: "base".into(), ..request() }).contains("choose another name"));
    }
}
