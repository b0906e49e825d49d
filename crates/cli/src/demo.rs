//! `comat demo`: a complete training run on the miniature world, as a sequence of this program's own commands.

mod course;

use crate::{console::Console, share, text::quoted};
use anyhow::{Context, Result, bail};
use clap::Args as Group;
use course::{Extent, Step};
use diffusion::settings::Where;
use models::{Error, write_text};
use ranks::interrupt::Interrupted;
use run::duration;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Train on the built-in miniature world, judge before and after, and write a page about it
///
/// Trains a LoRA on 64x64 images of coloured shapes, draws held-out prompts without and with it, has an exact judge look at all of them,
/// and writes DIR/report.html. About ten minutes on two CPU cores, without a download. Every step is a command of this program, and is shown.
/// If it is stopped (Ctrl-C), the same command continues.
#[derive(Group)]
pub struct Demo {
    /// Take about a minute: few steps and few images
    #[arg(long)]
    quick: bool,
    /// Folder for everything [default: runs/demo, or runs/demo-quick]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Begin anew; the folder of the last demo is renamed to DIR.1, DIR.2, …
    #[arg(long)]
    anew: bool,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: Where,
}

/// File with the commands of the demo's steps and the number of steps that are done.
const STATE: &str = "demo.json";

/// Results that are listed at the end: names of files or folders, and what they are.
const RESULTS: &[(&str, &str)] = &[
    ("report.html", "the page: the base model beside both LoRAs, scores with intervals, curves of the run"),
    ("before-after.png", "sample prompts: the base model above, the tuned one below"),
    ("base, tuned, shipped", "images of the held-out prompts: without a LoRA, with this one, with the shipped one"),
    ("adapter", "the LoRA, for diffusers and for ComfyUI or A1111"),
    ("events.jsonl", "loss, gradient norm, time and memory of every step"),
];

/// Runs the demo. `typed` runs a command of this program, given as its words.
pub fn run(args: Demo, console: &Console, typed: impl Fn(&[String]) -> Result<()>) -> Result<()> {
    let Some(share) = share::folder() else { bail!("the miniature world is not found; {}", share::advice()) };
    let extent = if args.quick { Extent::QUICK } else { Extent::WHOLE };
    let out = args.out.unwrap_or_else(|| extent.folder.into());
    if args.anew
        && let Some(aside) = move_aside(&out)?
    {
        say!("The last demo is in {} now", aside.display());
    }
    let steps = course::steps(&out, &extent, args.device);
    let lines: Vec<String> = steps.iter().map(Step::line).collect();
    let before = done(&out, &lines)?;
    console.stop_on_ctrl_c("Stopping; the same command goes on from here. Ctrl-C once more stops at once.");
    match before {
        None => say!("{} into {}. If it is stopped (Ctrl-C), the same command continues.", extent.what, out.display()),
        Some(done) if done < steps.len() => {
            say!("Going on in {}: {done} of {} steps are done.", out.display(), steps.len());
        }
        Some(_) => say!("Done already; --anew does it again."),
    }
    if before.is_none_or(|done| done == 0) {
        fs::create_dir_all(&out).map_err(Error::io(&out))?;
        write_state(&out, &lines, 0)?;
        course::write_prompts(&share, &out, extent.prompts)?;
    }
    let begun = Instant::now();
    for (number, step) in steps.iter().enumerate().skip(before.unwrap_or(0)) {
        say!("\n{}/{} {}\n    {}", number + 1, steps.len(), step.what, step.line());
        typed(&step.words)?;
        if console.interrupt.is_set() {
            return Err(Interrupted.into());
        }
        write_state(&out, &lines, number + 1)?;
    }
    say!("\nDone in {}. In {}:", duration(begun.elapsed().as_secs_f64()), out.display());
    for (name, what) in RESULTS {
        if name.contains(',') || out.join(name).exists() {
            say!("  {name:22} {what}");
        }
    }
    if args.quick {
        say!(
            "In the page, `tuned` is the shipped LoRA of a whole training, and `short` that of these few steps; comat demo trains a whole one."
        );
    }
    let page = out.join("report.html");
    let page = fs::canonicalize(&page).unwrap_or(page);
    say!("The page: {}", page.display());
    if args.open {
        open(&page);
    }
    Ok(())
}

/// Number of steps that an earlier call has done; `None` if there was no earlier call.
fn done(out: &Path, steps: &[String]) -> Result<Option<usize>> {
    let file = out.join(STATE);
    if !file.exists() {
        if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} holds something else than a demo; choose another folder by --out", out.display());
        }
        return Ok(None);
    }
    let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
    let state: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    if state["steps"] != json!(steps) {
        if state["done"] == 0 && !out.join("events.jsonl").exists() {
            return Ok(None); // nothing of it is kept
        }
        bail!(
            "{} holds a demo with other settings; --anew puts it aside and begins again, --out takes another folder",
            out.display()
        );
    }
    Ok(Some(state["done"].as_u64().unwrap_or(0).min(steps.len() as u64) as usize))
}

fn write_state(out: &Path, steps: &[String], done: usize) -> Result<()> {
    Ok(write_text(&out.join(STATE), &format!("{:#}\n", json!({ "steps": steps, "done": done })))?)
}

/// Renames the folder to the first free name with a number, so that no run is lost. Returns the new name; `None` if
/// there is no folder.
fn move_aside(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.exists() {
        return Ok(None);
    }
    let name = |n: usize| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let aside = (1..).map(name).find(|free| !free.exists()).context("no free name for the last demo")?;
    fs::rename(folder, &aside)
        .map_err(Error::io(folder))
        .with_context(|| format!("could not move {} to {}", folder.display(), aside.display()))?;
    Ok(Some(aside))
}

/// Opens the page in the browser. A failure is only a warning.
fn open(page: &Path) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ended = torch_ext::signals::spawn(&mut command).and_then(|mut child| child.wait());
    if !ended.is_ok_and(|status| status.success()) {
        tracing::warn!("{program} could not open the page; open it in a browser");
    }
}

impl Step {
    /// The command line, quoted for a shell.
    fn line(&self) -> String {
        self.words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;

    #[test]
    fn every_step_is_a_command() {
        for extent in [Extent::QUICK, Extent::WHOLE] {
            for step in course::steps(Path::new("a folder"), &extent, Where::Cpu) {
                Args::try_parse_from(&step.words).map_err(|e| e.to_string()).map(drop).unwrap();
                assert!(step.line().starts_with("comat ") && step.line().contains("a folder"), "{}", step.line());
            }
        }
    }

    #[test]
    fn a_demo_that_has_done_nothing_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let (out, now) = (folder.path(), ["now".to_owned()]);
        write_state(out, &["before".to_owned()], 0).unwrap();
        assert_eq!(done(out, &now).unwrap(), None);
        fs::write(out.join("events.jsonl"), "").unwrap();
        assert!(done(out, &now).unwrap_err().to_string().contains("a demo with other settings"));
        fs::remove_file(out.join("events.jsonl")).unwrap();
        write_state(out, &["before".to_owned()], 1).unwrap();
        assert!(done(out, &now).is_err());
        write_state(out, &now, 0).unwrap();
        assert_eq!(done(out, &now).unwrap(), Some(0));
    }

    #[test]
    fn earlier_demos_are_kept() {
        let scratch = std::env::temp_dir().join(format!("comat-demo-{}", std::process::id()));
        let run = scratch.join("demo");
        assert_eq!(move_aside(&run).unwrap(), None);
        for expected in ["demo.1", "demo.2"] {
            fs::create_dir_all(&run).unwrap();
            assert_eq!(move_aside(&run).unwrap(), Some(scratch.join(expected)));
            assert!(!run.exists());
        }
        fs::remove_dir_all(scratch).unwrap();
    }
}
