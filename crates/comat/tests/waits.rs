//! How often an iteration waits for the device: the operators that read a value, counted by part of the very one that trains. On the CPU nothing waits, but the
//! operators are those of a GPU.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{adapter, batch::Batch, replay::Mode, session::Session, share::Share, train::iterate};
use optim::Gradients;
use ranks::ProcessGroup;
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};
use torch_ext::{
    count::Operators,
    cuda::{self, Flags},
    parallel,
    testing::{device, device_name},
};

const PROMPTS: [&str; 2] = ["a red dog and a blue cat", "two green cars"];
const STEPS: usize = 6;

/// What is counted, and the flags, are the process's: the tests of this file run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The miniature world's segmenter needs no network.
const ATTENTION: &str = "[attention]\nsegmenter = { kind = 'world' }\n";

fn session(dtype: &str, mode: Mode, attention: bool) -> Session {
    session_with(&format!("dtype = '{dtype}'"), mode, attention)
}

/// `model`: lines of `[model]`.
fn session_with(model: &str, mode: Mode, attention: bool) -> Session {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\n[model]\npath = '{0}/pipeline_sd1'\n{model}\ndevice = '{1}'\n\
         [captioner]\npath = '{0}/blip'\n[prompts]\ntrain = 'none.txt'\n\
         [sampling]\nsteps = {STEPS}\nsize = '48x32'\n[lora]\nrank = 3\n[train]\nbatch_size = 2\n\
         [replay]\ntracked = {STEPS}\nmode = '{2}'\nmax_cotangent = 0.5\n[anchor]\nweight = 1.0\n{3}",
        fixtures.display(),
        device_name(),
        if mode == Mode::Chained { "chained" } else { "detached" },
        if attention { ATTENTION } else { "" },
    );
    std::fs::write(&file, text).unwrap();
    Session::open(config::read(&file, &[]).unwrap()).unwrap()
}

fn batch() -> Batch {
    Batch::of(0, 0..1, PROMPTS.len(), &ProcessGroup::alone(), |place| Ok(PROMPTS[place as usize].into())).unwrap()
}

/// What a training step's iteration asked for: up to its first denoising step, in the other ones, to decode, for the captioner and the
/// way back to the latents, and in every replayed step; then what was left.
struct Counted {
    start: Counts,
    steps: Vec<Counts>,
    decode: Counts,
    caption: Counts,
    replay: Vec<Counts>,
    end: Counts,
}

type Counts = BTreeMap<String, u64>;

fn counted(dtype: &str, mode: Mode, attention: bool) -> Counted {
    let mut session = session(dtype, mode, attention);
    let adapter = adapter::start(&session).unwrap().trainable(session.latent_kind(), device());
    let mut draws = batch().draws(&session).unwrap();
    assert_eq!((draws.tracked.len(), draws.anchor.len(), draws.attention.is_empty()), (STEPS, STEPS, !attention));
    if attention {
        draws.attention = draws.tracked.clone(); // some are drawn
    }
    let (share, mut gradients, mut parts) = (Share::whole(&PROMPTS), Gradients::zeros(&adapter), VecDeque::new());

    let operators = Operators::start().unwrap();
    let each = || {
        parts.push_back(operators.take());
        Ok(())
    };
    iterate(&mut session, &adapter, &share, draws, vec![], &mut gradients, each).unwrap();
    let end = operators.take();
    let mut next = |count: usize| parts.drain(..count).collect::<Vec<_>>();
    let (mut start, steps, mut between, replay) = (next(1), next(STEPS - 1), next(2), next(STEPS));
    let (caption, decode) = (between.pop().unwrap(), between.pop().unwrap());
    assert!(parts.is_empty(), "it was asked {} times more than it has parts", parts.len());
    Counted { start: start.pop().unwrap(), steps, decode, caption, replay, end }
}

fn reads(counted: &Counts) -> u64 {
    counted.iter().filter(|(name, _)| name.starts_with("aten::")).map(|(_, count)| count).sum()
}

/// The denoising steps read nothing. A replayed step reads nothing, and in float16 once a backward pass, of which the anchor has one more
/// in `chained` mode, whether the scaled gradients are finite. The losses of the steps are read once at the end. With attention losses
/// the objects are found before the first replayed step, which is counted with it.
#[test]
fn the_device_is_seldom_waited_for() {
    let _alone = alone();
    for (dtype, mode, attention, most) in [
        ("float32", Mode::Detached, false, 0),
        ("bfloat16", Mode::Chained, false, 0),
        ("float16", Mode::Detached, false, 1),
        ("float16", Mode::Chained, false, 2),
        ("float32", Mode::Detached, true, 0),
    ] {
        // no attention in half precision: the stand-in for a GPU has no softmax from float16 to float32

        let Counted { start, steps, decode, caption, replay, end } = counted(dtype, mode, attention);
        let what = format!("{dtype}, {mode:?}, attention: {attention}");
        println!("{what}:\n  start {start:?}\n  steps {steps:?}\n  decode {decode:?}");
        println!("  caption {caption:?}\n  replay {replay:?}\n  end {end:?}");
        assert!(steps.iter().all(|step| step.is_empty()), "{what}: {steps:?}");
        let all = &replay[usize::from(attention)..];
        let threads = parallel::pieces(PROMPTS.len() as i64, device()).len() as u64; // each has passes of its own
        assert!(all.iter().all(|step| reads(step) <= most * threads), "{what}: {replay:?}");
        // copies are counted where host and device are two
        assert!(all.iter().all(|step| !step.contains_key("copy to the host")), "{what}: {replay:?}");
        assert!(replay[1..].iter().all(|step| !step.contains_key("copy to the device")), "{what}: {replay:?}");
        assert!(reads(&end) <= 1, "{what}: {end:?}");
    }
}

/// Ctrl-C ends an iteration after the denoising step under way, on the way there and on the way back, and between its parts.
#[test]
fn an_iteration_ends_where_it_is_asked_to() {
    let _alone = alone();
    let mut session = session("float32", Mode::Detached, false);
    let adapter = adapter::start(&session).unwrap().trainable(session.latent_kind(), device());
    for last in 1..=2 * STEPS + 2 {
        let (draws, mut calls) = (batch().draws(&session).unwrap(), 0);
        let each = || {
            calls += 1;
            if calls < last { Ok(()) } else { Err(anyhow::anyhow!("enough")) }
        };
        let mut gradients = Gradients::zeros(&adapter);
        let ended = iterate(&mut session, &adapter, &Share::whole(&PROMPTS), draws, vec![], &mut gradients, each);
        assert_eq!((ended.err().unwrap().to_string(), calls), ("enough".into(), last));
    }
}

/// `model.tf32` and `model.deterministic` reach libtorch, both ways. On the CPU they say nothing.
#[test]
fn a_session_computes_as_its_model_says() {
    let _alone = alone();
    let on_a_gpu = device().is_cuda();
    let before = cuda::flags().unwrap();
    for (tf32, deterministic) in [(true, true), (false, false), (false, true), (true, false), (false, false)] {
        session_with(&format!("tf32 = {tf32}\ndeterministic = {deterministic}"), Mode::Detached, false);
        let expected = Flags {
            deterministic: (deterministic, deterministic),
            benchmark: !deterministic,
            tf32: (tf32, before.tf32.1),
        };
        let expected = if on_a_gpu { expected } else { before };
        assert_eq!(cuda::flags().unwrap(), expected, "tf32 {tf32}, deterministic {deterministic}");
    }
}
