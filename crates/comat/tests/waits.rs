//! How often an iteration waits for the device: the operators that read a value, counted by part. On the CPU nothing waits, but the
//! operators are those of a GPU.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    adapter,
    batch::Batch,
    replay::{Mode, Replay},
    session::Session,
    share::Share,
};
use diffusion::trajectory;
use optim::Gradients;
use ranks::ProcessGroup;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use torch_ext::{
    count::Operators,
    testing::{device, device_name},
};

const PROMPTS: [&str; 2] = ["a red dog and a blue cat", "two green cars"];
const STEPS: usize = 6;

fn session(dtype: &str) -> Session {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\n[model]\npath = '{0}/pipeline_sd1'\ndtype = '{dtype}'\ndevice = '{1}'\n\
         [captioner]\npath = '{0}/blip'\n[prompts]\ntrain = 'none.txt'\n\
         [sampling]\nsteps = {STEPS}\nsize = '48x32'\n[lora]\nrank = 3\n[train]\nbatch_size = 2\n\
         [anchor]\nweight = 1.0\n",
        fixtures.display(),
        device_name(),
    );
    std::fs::write(&file, text).unwrap();
    Session::open(config::read(&file, &[]).unwrap()).unwrap()
}

/// What each part asked for, in the order of an iteration.
fn counted(dtype: &str, mode: Mode) -> [(&'static str, BTreeMap<String, u64>); 4] {
    let mut session = session(dtype);
    let adapter = adapter::start(&session).unwrap().trainable(session.latent_kind(), device());
    let batch =
        Batch::of(0, 0..1, PROMPTS.len(), &ProcessGroup::alone(), |place| Ok(PROMPTS[place as usize].into())).unwrap();
    let draws = batch.draws(&session).unwrap();
    let tracked: BTreeSet<usize> = (0..STEPS).collect();
    let text = session.text(&PROMPTS).unwrap();
    let original = session.anchor(&PROMPTS, &tracked).unwrap().unwrap();
    let (frozen, branched) = (session.frozen(&adapter.lora).unwrap(), session.branched(&adapter.lora).unwrap());
    let mut gradients = Gradients::zeros(&adapter);

    let operators = Operators::start().unwrap();
    let denoiser = session.denoiser(frozen.as_ref());
    let predict = denoiser.conditioned_on(&text);
    let walked = trajectory::walk(predict, &session.sampler, draws.start, &tracked, draws.noise, || Ok(())).unwrap();
    let trajectory = operators.take();
    let (images, passed) = session.decode_there(&walked.latents).unwrap();
    let mut decode = operators.take();
    let caption = session.captioner.with_cotangent(&images, &Share::whole(&PROMPTS), &draws.crops).unwrap();
    let captioned = operators.take();
    let cotangent = session.decode_cotangent(&walked.latents, passed, &caption.cotangent).unwrap();
    for (name, count) in operators.take() {
        *decode.entry(name).or_default() += count;
    }
    let anchored = original.pull(tracked);
    let replay = Replay {
        denoiser: &session.denoiser(branched.as_ref()),
        sampler: &session.sampler,
        text: &text,
        mode,
        discount: 1.0,
        unconditional: true,
        max_cotangent: 0.5,
        micro_batch: 0,
        batch: PROMPTS.len(),
        leaves: &adapter.lora.matrices(),
        losses: vec![&anchored],
    };
    replay.run(&walked, cotangent, &mut gradients).unwrap();
    [("trajectory", trajectory), ("decode", decode), ("caption", captioned), ("replay", operators.take())]
}

fn reads(counted: &BTreeMap<String, u64>) -> u64 {
    counted.iter().filter(|(name, _)| name.starts_with("aten::")).map(|(_, count)| count).sum()
}

/// The way there reads nothing; the way back once at its end (the losses of its steps), and in float16 once a backward pass, of which the
/// anchor has one more in `chained` mode: whether the scaled gradients are finite.
#[test]
fn the_device_is_seldom_waited_for() {
    for (dtype, mode, most) in [
        ("float32", Mode::Detached, 1),
        ("bfloat16", Mode::Chained, 1),
        ("float16", Mode::Detached, STEPS as u64 + 1),
        ("float16", Mode::Chained, 2 * STEPS as u64 + 1),
    ] {
        let parts = counted(dtype, mode);
        for (part, counts) in &parts {
            println!("{dtype}, {mode:?}, {part}: {counts:?}");
        }
        assert_eq!(reads(&parts[0].1), 0, "{dtype}, {mode:?}");
        let way_back = reads(&parts[3].1);
        assert!(way_back <= most, "{dtype}, {mode:?}: {way_back}");
    }
}
