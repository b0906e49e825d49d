//! `cargo xtask kill`: a small training with everything on is killed at random moments and resumed until it ends, again and again, and
//! has to come to what the same training is without that.

use crate::command::{must, program};
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use fastrand::Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

/// On the fixtures of `models`: about two seconds.
const RUN: &str = r#"seed = 3
[model]
path = "FIXTURES/pipeline_sd1"
[captioner]
path = "FIXTURES/blip"
[prompts]
train = "../prompts.txt"
validation = "../validation.txt"
[sampling]
sampler = "ddpm"
steps = 4
[replay]
tracked = 2
[lora]
rank = 2
[optimizer]
learning_rate = 1e-2
[train]
steps = 10
batch_size = 2
[checkpoints]
every = 1
keep = 2
[samples]
every = 2
count = 2
[validation]
every = 2
count = 4
"#;

/// Kills and resumes until so many runs were killed. `comat`: the program, where it is not to be built.
pub fn run(workspace: &Workspace, times: u32, seed: Option<u64>, comat: Option<&Path>) -> Result<ExitCode> {
    let comat = match comat {
        Some(comat) => comat.canonicalize().with_context(|| comat.display().to_string())?,
        None => {
            setup::ensure(workspace, false)?;
            workspace.build("release", &[])?
        }
    };
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs()));
    let folder = env::temp_dir().join(format!("comat-kill-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    println!("seed {seed} (--seed), in {}", folder.display());
    let trial = Trial { comat, folder, fixtures: workspace.root().join("crates/models/tests/fixtures") };
    trial.prepare()?;
    let began = Instant::now();
    must(trial.train("straight")?.stdout(Stdio::null()))?;
    let whole = began.elapsed();
    let expected = trial.outcome("straight")?;
    println!(
        "{} files and {} validations to compare, {whole:.1?} a run",
        expected.files.len(),
        expected.validations.len()
    );
    let (mut random, mut killed, mut rounds) = (Rng::with_seed(seed), 0, 0);
    while killed < times {
        let name = format!("killed-{rounds}");
        let kills = trial.until_it_ends(&name, whole, times - killed, &mut random)?;
        let found = trial.outcome(&name)?;
        if let Some(difference) = expected.difference(&found) {
            bail!("{}: {difference}; the run without kills is beside it", trial.folder.join(&name).display());
        }
        println!("{name}: killed {kills} times, the same in the end");
        fs::remove_dir_all(trial.folder.join(&name))?;
        (killed, rounds) = (killed + kills, rounds + 1);
    }
    fs::remove_dir_all(&trial.folder)?;
    println!("{killed} kills in {rounds} runs: every run came to the same bytes");
    Ok(ExitCode::SUCCESS)
}

struct Trial {
    comat: PathBuf,
    folder: PathBuf,
    fixtures: PathBuf,
}

/// What is compared: every file that is not a log, by its path in the run, and the entries of the validations.
struct Outcome {
    files: BTreeMap<PathBuf, Vec<u8>>,
    validations: BTreeMap<u64, Value>,
    losses: BTreeMap<u64, Value>,
}

impl Trial {
    fn prepare(&self) -> Result<()> {
        let run = RUN.replace("FIXTURES", &self.fixtures.display().to_string());
        fs::write(self.folder.join("run.toml"), run)?;
        fs::write(self.folder.join("prompts.txt"), "a red dog\na blue cat\na small green bird\n")?;
        Ok(fs::write(self.folder.join("validation.txt"), "a big car\ntwo black birds\na house\na green tree\n")?)
    }

    fn program(&self) -> Command {
        let mut command = program(&self.comat);
        command.current_dir(&self.folder).env("OMP_NUM_THREADS", "1").env("HF_HUB_OFFLINE", "1");
        command.env("CUDA_VISIBLE_DEVICES", "").env("RUST_LOG", "warn");
        command
    }

    /// In a folder of its own: what is exported names the output.
    fn train(&self, trial: &str) -> Result<Command> {
        let folder = self.folder.join(trial);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut command = self.program();
        command.args(["train", "--config", "../run.toml", "--set", "output=out"]).current_dir(folder);
        Ok(command)
    }

    fn output(&self, trial: &str) -> PathBuf {
        self.folder.join(trial).join("out")
    }

    /// How often it was killed, at most so many times.
    fn until_it_ends(&self, trial: &str, whole: Duration, most: u32, random: &mut Rng) -> Result<u32> {
        let mut kills = 0;
        loop {
            let mut command = self.train(trial)?;
            // from the beginning, where it was killed before the first checkpoint
            let mut child = command.args(["--resume", "auto"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            let end = Instant::now() + whole.mul_f64(random.f64() * 0.9);
            while kills < most && Instant::now() < end && child.try_wait()?.is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            if kills < most && child.try_wait()?.is_none() {
                child.kill()?;
            }
            let done = child.wait_with_output()?;
            match done.status.code() {
                Some(0) => return Ok(kills),
                None => kills += 1,
                Some(code) => {
                    let said = String::from_utf8_lossy(&done.stderr).into_owned();
                    bail!("{}, killed {kills} times: it ended with {code}: {said}", self.output(trial).display());
                }
            }
        }
    }

    fn outcome(&self, trial: &str) -> Result<Outcome> {
        let root = self.output(trial);
        let lora = root.join("adapter/pytorch_lora_weights.safetensors");
        let mut generate = self.program();
        let model = self.fixtures.join("pipeline_sd1");
        generate.args(["generate", "--prompt", "a red dog", "--steps", "3", "--size", "32x32", "--overwrite"]);
        generate.arg("--model").arg(model).arg("--lora").arg(lora).args(["--save-latents", "latents.safetensors"]);
        must(generate.args(["--out", "drawn"]).stdout(Stdio::null()))?;
        let mut outcome = Outcome { files: BTreeMap::new(), validations: BTreeMap::new(), losses: BTreeMap::new() };
        outcome.files.insert("latents.safetensors".into(), fs::read(self.folder.join("latents.safetensors"))?);
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.strip_prefix(&root)?.to_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !is_a_log(&name) {
                    outcome.files.insert(name, fs::read(&path)?);
                }
            }
        }
        for line in fs::read_to_string(root.join("events.jsonl"))?.lines() {
            // a line that was cut off by a kill is no JSON
            let Ok(mut event) = serde_json::from_str::<Value>(line) else { continue };
            let Some(step) = event["step"].as_u64() else { continue };
            if let Some(event) = event.as_object_mut() {
                ["seconds", "peak_memory", "time", "seconds_by_phase"].iter().for_each(|key| _ = event.remove(*key));
            }
            match event["event"].as_str() {
                Some("validation") => _ = outcome.validations.insert(step, event),
                Some("step") => _ = outcome.losses.insert(step, event["caption_loss"].clone()),
                _ => {}
            }
        }
        Ok(outcome)
    }
}

/// Logs have times in them; the configuration has the name of the output.
fn is_a_log(name: &Path) -> bool {
    let first = name.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    matches!(first.as_deref(), Some("events.jsonl" | "config.toml" | "tensorboard" | "lock" | "run.json"))
}

impl Outcome {
    fn difference(&self, other: &Self) -> Option<String> {
        let paths = self.files.keys().chain(other.files.keys());
        for path in paths {
            match (self.files.get(path), other.files.get(path)) {
                (Some(a), Some(b)) if a == b => {}
                (Some(_), Some(_)) => return Some(format!("{} has other bytes", path.display())),
                (Some(_), None) => return Some(format!("{} is missing", path.display())),
                _ => return Some(format!("{} is too much", path.display())),
            }
        }
        if self.validations != other.validations {
            return Some(format!("validations {:?}, expected {:?}", other.validations, self.validations));
        }
        (self.losses != other.losses).then(|| format!("losses {:?}, expected {:?}", other.losses, self.losses))
    }
}
