//! Output for the user: progress bars, log lines, answers and errors.

pub mod watch;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ranks::{
    Launch,
    interrupt::{Interrupt, Interrupted},
};
use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};
use tracing::Level;
use tracing_subscriber::{filter::Targets, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

/// Unit of a progress bar while images are drawn.
pub const DENOISING: &str = "denoising steps";

/// Prints a command's answer to standard output. A closed pipe (`comat … | head`) is not an error; a full disk is.
pub fn print(text: fmt::Arguments) -> Result<()> {
    match io::stdout().write_fmt(text) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Prints a line to standard output with [`print`]. (`println!` would panic on a closed pipe.)
macro_rules! say {
    ($($text:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($text)*)))?
    };
}

pub struct Console {
    bars: MultiProgress,
    /// Whether this process shows progress: the only process, or rank 0 of several.
    leads: bool,
    /// Whether progress bars are off (`-q`).
    quiet: bool,
    pub interrupt: Interrupt,
}

/// How much is logged: `-q`, `-v`, or neither; then RUST_LOG decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loudness {
    Quiet,
    Usual,
    Loud,
}

impl Loudness {
    /// The log filter, and a warning if RUST_LOG cannot be parsed. -q and -v take precedence over RUST_LOG, which has a
    /// level (`warn`), or levels by part of the program (`info,hub=debug`).
    fn filter(self) -> (Targets, Option<String>) {
        let usual = || Targets::new().with_default(Level::INFO);
        match self {
            Self::Quiet => (Targets::new().with_default(Level::WARN), None),
            Self::Loud => {
                let ours = [
                    "comat",
                    "config",
                    "diffusion",
                    "evaluate",
                    "hub",
                    "images",
                    "laboratory",
                    "models",
                    "pairs",
                    "ranks",
                    "report",
                    "run",
                    "scenes",
                    "workbench",
                ];
                (usual().with_targets(ours.map(|part| (part, Level::DEBUG))), None)
            }
            Self::Usual => match env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty()) {
                None => (usual(), None),
                Some(text) => match text.parse() {
                    Ok(filter) => (filter, None),
                    Err(e) => {
                        (usual(), Some(format!("RUST_LOG={text}: {e}; write for example warn, or info,hub=debug")))
                    }
                },
            },
        }
    }
}

impl Console {
    /// Sets up logging. Log lines are written above the progress bars, so that they do not mix.
    pub fn new(loudness: Loudness) -> Self {
        let leads = Launch::of_environment().ok().flatten().is_none_or(|launch| launch.rank == 0);
        let bars = MultiProgress::new();
        let log = tracing_subscriber::fmt::layer().with_writer(Above(bars.clone())).with_target(false);
        let log = log.without_time().with_ansi(false);
        let (filter, wrong) = match leads {
            true => loudness.filter(),
            false => (Targets::new().with_default(Level::ERROR), None),
        };
        let _ = tracing_subscriber::registry().with(log).with(filter).try_init();
        if let Some(wrong) = wrong {
            tracing::warn!("{wrong}");
        }
        Self { bars, leads, quiet: loudness == Loudness::Quiet, interrupt: Interrupt::default() }
    }

    /// A progress bar on a terminal; without a terminal, occasional log lines. `rest` is the template of the text
    /// behind the bar.
    pub fn bar(&self, name: &str, rest: &str) -> Result<ProgressBar> {
        if !self.leads || self.quiet {
            return Ok(ProgressBar::hidden());
        }
        let bar = self.bars.add(ProgressBar::no_length());
        bar.set_style(ProgressStyle::with_template(&format!("{{prefix}} {{wide_bar}} {rest}"))?);
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        if !io::stderr().is_terminal() {
            watch::start(&bar);
        }
        Ok(bar)
    }

    /// A progress bar that counts `things`, with their rate and the remaining time.
    pub fn count(&self, name: &str, things: &str) -> Result<ProgressBar> {
        self.bar(name, &format!("{{pos}}/{{len}} {things} · {{per_sec}} · ETA {{eta_precise}}"))
    }

    /// The first Ctrl-C asks the work to stop and prints `promise`; the second one ends the program.
    pub fn stop_on_ctrl_c(&self, promise: &'static str) {
        self.on_ctrl_c(self.leads.then_some(promise));
    }

    /// Like [`Self::stop_on_ctrl_c`], without a message.
    pub fn stop_silently_on_ctrl_c(&self) {
        self.on_ctrl_c(None);
    }

    fn on_ctrl_c(&self, promise: Option<&'static str>) {
        let (interrupt, bars) = (self.interrupt.clone(), self.bars.clone());
        let _ = ctrlc::set_handler(move || {
            if interrupt.set() {
                torch_ext::exit_at_once(130);
            }
            let Some(promise) = promise else { return };
            let again = if promise.contains("once more") { "" } else { " Ctrl-C once more stops at once." };
            bars.suspend(|| eprintln!("{promise}{again}")); // the bars' own `println` is silent without a terminal
        });
    }
}

/// Writes log lines above the progress bars.
#[derive(Clone)]
struct Above(MultiProgress);

impl io::Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Above {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Prints a panic as one line and exits with code 1. libtorch's wrapper panics on its errors, mostly lack of memory.
pub fn one_line_for_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("unknown error");
        let (source, inner) = text.split_once("Torch(\"").map_or(("", text), |(_, inner)| ("libtorch: ", inner));
        let line = inner.split("\\n").next().unwrap_or(inner).lines().next().unwrap_or(inner);
        tell_error(&out_of_memory(line).unwrap_or_else(|| format!("{source}{line}")));
        if let (None, Some(place)) = (out_of_memory(line), info.location()) {
            eprintln!(
                "comat: this should not happen; please report it with the command ({}:{})",
                place.file(),
                place.line()
            );
        }
        torch_ext::exit_at_once(1); // from any thread: libtorch must not shut down while another computes
    }));
}

/// What libtorch and drivers say of a lack of memory.
const LACK: [&str; 3] = ["out of memory", "can't allocate memory", "not enough memory"];

/// Whether a message is about a lack of memory.
pub fn lacks_memory(message: &str) -> bool {
    LACK.iter().any(|said| message.contains(said))
}

/// For a message about lack of memory: the phase in which it happened, and what helps. Otherwise `None`.
fn out_of_memory(message: &str) -> Option<String> {
    let said = LACK.iter().find(|said| message.contains(**said))?;
    let begin = message.find(said)?;
    let amount = message[begin..].split(['.', '\\']).next().unwrap_or(said);
    Some(match torch_ext::clock::under_way() {
        Some(phase) => format!(
            "out of memory in the phase `{phase}` of a step ({amount}): a smaller {} needs less; `comat plan --memory …` says how small",
            workbench::plan::memory::setting_of(phase)
        ),
        None => {
            format!("out of memory ({amount}): a smaller batch or size, or --dtype bfloat16 (model.dtype), needs less")
        }
    })
}

/// Prints an error with a single write, so that lines of several ranks do not mix.
fn tell_error(line: &str) {
    let _ = io::stderr().write_all(format!("comat: error: {line}\n").as_bytes());
}

/// Exit code: 0, or 1 after an error (which is printed), or 130 after Ctrl-C.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => ExitCode::from(130),
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            tell_error(&out_of_memory(&line).unwrap_or(line));
            ExitCode::FAILURE
        }
    }
}
