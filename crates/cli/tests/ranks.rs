//! Several processes, one run: the same numbers as of one process, the same files.

use crate::common;

use crate::common::{Done, Folder, Running, fine, relative_error, train_words};
use serde_json::Value;
use std::{fs, net::TcpListener, path::Path};

/// With enough prompts for an epoch of uneven length.
fn folder() -> Folder {
    let folder = Folder::of_run();
    folder.write("prompts.txt", "a red dog\na blue cat\na small green bird\ntwo white horses\na tree\n");
    folder
}

/// Small, on the weights of the miniature world, with every part of the method.
fn world_folder() -> Folder {
    let folder = Folder::new();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let of_repository = |name: &str| std::fs::read_to_string(repository.join(name)).unwrap();
    let weights = repository.join("weights/world");
    let config = of_repository("configs/world.toml").replace("weights/world", weights.to_str().unwrap());
    let config = config.replace("configs/world/", "");
    folder.write("run.toml", config);
    let some = |name: &str| of_repository(name).lines().take(7).map(|line| format!("{line}\n")).collect::<String>();
    folder.write("train.jsonl", some("configs/world/train.jsonl"));
    folder.write("held_out.jsonl", some("configs/world/held_out.jsonl"));
    folder
}

const EVERYTHING: &str = "sampling.steps=3 replay.tracked=2 train.batch_size=4 train.steps=2 optimizer.warmup_steps=0 \
    samples.count=0 validation.count=5 lora.rank=4 train.ema=0.5 \
    attention.segmenter.kind=world attention.token_weight=3e-3 attention.pixel_weight=1e-3 \
    fidelity.rank=2 fidelity.learning_rate=1e-3 fidelity.latents=latents";

/// What was learned, and what was logged of it.
struct Learned {
    files: Vec<(String, models::tensors::Tensors)>,
    figures: Vec<(String, f64)>,
}

fn learned(folder: &Folder, run: &str) -> Learned {
    let newest = format!("{run}/checkpoints/{}", folder.read(&format!("{run}/checkpoints/latest")));
    let files = folder.names(&newest).into_iter().filter(|name| name.ends_with(".safetensors"));
    let files = files.map(|name| (name.clone(), folder.tensors(&format!("{newest}/{name}")))).collect();
    let mut figures = vec![];
    for event in folder.events(run) {
        let (what, step) = (event["event"].as_str().unwrap().to_owned(), event["step"].clone());
        for (key, value) in event.as_object().unwrap() {
            let of_the_machine = ["seconds", "peak", "ranks"].iter().any(|word| key.contains(word));
            match value {
                Value::Number(n) if !of_the_machine => {
                    figures.push((format!("{what} {step} {key}"), n.as_f64().unwrap()));
                }
                Value::Array(all) if key == "losses" => {
                    figures.extend(all.iter().map(|n| (format!("{what} {step} {key}"), n.as_f64().unwrap())));
                }
                _ => {}
            }
        }
    }
    Learned { files, figures }
}

/// How far the one is from the other: the figures, and the tensors, each relative to the largest value.
#[track_caller]
fn distance(one: &Learned, other: &Learned) -> (f64, f64) {
    assert!(!one.files.is_empty() && one.files.len() == other.files.len());
    assert_eq!(one.figures.len(), other.figures.len());
    let (mut figures, mut tensors) = (0.0f64, 0.0f64);
    for ((name, a), (other_name, b)) in one.figures.iter().zip(&other.figures) {
        assert_eq!(name, other_name);
        figures = figures.max((a - b).abs() / a.abs().max(1e-3));
    }
    for ((name, a), (_, b)) in one.files.iter().zip(&other.files) {
        assert!(a.keys().eq(b.keys()), "{name}");
        let furthest = a.iter().map(|(key, tensor)| relative_error(&b[key], tensor));
        tensors = furthest.filter(|far| !far.is_nan()).fold(tensors, f64::max); // 0/0: nothing there in both
    }
    (figures, tensors)
}

/// In float64 nothing is left to say: however many processes share the batch, also unevenly, and more than there are samples.
#[test]
fn the_number_of_processes_changes_nothing() {
    let folder = folder();
    let words = |run: &str| format!("output={run} model.dtype=float64 train.batch_size=4 train.steps=3");
    folder.train(&words("one")).ok();
    let one = learned(&folder, "one");
    for (count, run) in [(2, "two"), (3, "three"), (4, "four"), (5, "five")] {
        let done = fine(folder.train(&format!("{} --processes {count}", words(run))));
        assert_eq!(done.stderr.contains("1 of 5 ranks have nothing to do"), count == 5, "{done:?}");
        let (figures, tensors) = distance(&one, &learned(&folder, run));
        println!("{count} processes: figures {figures:.1e}, tensors {tensors:.1e}");
        assert!(figures < 1e-9 && tensors < 1e-7, "{count} processes: figures {figures:e}, tensors {tensors:e}");
        let steps = folder.events(run);
        assert_eq!((&steps[0]["ranks"], &steps[0]["backend"]), (&count.into(), &"gloo".into()));
        for step in steps.iter().filter(|event| event["event"] == "step") {
            let seconds = step["seconds_ranks"].as_array().unwrap();
            assert!(seconds.len() == count && seconds.iter().all(|s| s.as_f64().unwrap() > 0.0), "{step}");
        }
    }
    let other = format!("{} seed=4", words("other"));
    folder.train(&other).ok();
    let (figures, tensors) = distance(&one, &learned(&folder, "other"));
    assert!(figures > 1e-3 && tensors > 1e-3, "another seed is another run: {figures:e} {tensors:e}");
}

/// Two tasks as srun starts them, on the first and only host of their step.
#[test]
fn tasks_of_slurm() {
    let folder = folder();
    let words = "model.dtype=float64 train.batch_size=3 train.steps=2";
    folder.train(&format!("output=one {words}")).ok();
    let words = format!("output=two {words}");
    let start = |task: usize| {
        let job = std::process::id().to_string();
        let task = task.to_string();
        let variables = [
            ("SLURM_JOB_ID", job.as_str()),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_STEP_NODELIST", "localhost"),
            ("SLURM_PROCID", &task),
            ("SLURM_LOCALID", &task),
        ];
        folder.start_in(&train_words(&words), &variables.map(|(name, value)| (name, value.to_owned())))
    };
    let [first, second] = [start(0), start(1)].map(|rank| rank.wait().ok());
    assert_eq!((first.stdout.lines().count(), second.stdout.as_str()), (2, "")); // the LoRA, and its card
    let (figures, tensors) = distance(&learned(&folder, "one"), &learned(&folder, "two"));
    assert!(figures < 1e-9 && tensors < 1e-7, "figures {figures:e}, tensors {tensors:e}");
}

/// In float32 sums in another order are rounded otherwise; the first steps of AdamW make much of little.
#[test]
fn float32_stays_near() {
    let folder = folder();
    let words = "train.batch_size=4 optimizer.learning_rate=1e-3";
    folder.train(&format!("output=one {words}")).ok();
    folder.train(&format!("output=two {words} --processes 2")).ok();
    let (figures, tensors) = distance(&learned(&folder, "one"), &learned(&folder, "two"));
    println!("figures {figures:.1e}, tensors {tensors:.1e}");
    assert!(figures < 1e-3 && tensors < 1e-2, "figures {figures:e}, tensors {tensors:e}");
}

/// Other rewards, attention losses, discriminator, running average, validation with a judge: all of a batch that three processes share.
#[test]
fn every_part_of_the_method() {
    let folder = world_folder();
    let clip = format!("reward=[{{kind=\"clip\",path=\"{}\",weight=4}}]", common::fixture("clip_score").display());
    let words = |run: &str| format!("output={run} model.dtype=float64 {EVERYTHING} {clip}");
    fine(folder.train(&words("one")));
    fine(folder.train(&format!("{} --processes 3", words("three"))));
    let (one, three) = (learned(&folder, "one"), learned(&folder, "three"));
    assert!(
        ["step 1 reward_clip", "validation 2 reward_clip"].iter().all(|name| one.figures.iter().any(|f| f.0 == *name))
    );
    for name in ["token_loss", "pixel_loss", "subjects", "adversarial_loss", "discriminator_accuracy", "distance"] {
        assert!(one.figures.iter().any(|(key, value)| key.ends_with(name) && *value > 0.0), "{name}");
    }
    let (figures, tensors) = distance(&one, &three);
    println!("figures {figures:.1e}, tensors {tensors:.1e}");
    assert!(one.files.len() == 5 && figures < 1e-8 && tensors < 1e-6, "figures {figures:e}, tensors {tensors:e}");
    assert_eq!(folder.names("one"), folder.names("three"));
}

/// Images with captions are shared, too.
#[test]
fn mixed_latents() {
    let folder = world_folder();
    let images = folder.comat(&[
        "generate",
        "--model",
        &model(&folder),
        "--prompts",
        "train.jsonl",
        "--steps",
        "2",
        "--out",
        "images",
        "--size",
        "64",
    ]);
    fine(images);
    let captions: String = folder
        .names("images")
        .iter()
        .map(|name| format!("{{\"image\": \"images/{name}\", \"caption\": \"a red star\"}}\n"))
        .collect();
    folder.write("pairs.jsonl", captions);
    let words = |run: &str| {
        format!(
            "output={run} model.dtype=float64 sampling.steps=3 replay.tracked=2 train.batch_size=2 train.steps=2 samples.count=0 \
             validation.count=1 lora.rank=2 mixed.pairs=pairs.jsonl mixed.batch_size=3"
        )
    };
    fine(folder.train(&words("one")));
    fine(folder.train(&format!("{} --processes 2", words("two"))));
    let (figures, tensors) = distance(&learned(&folder, "one"), &learned(&folder, "two"));
    assert!(figures < 1e-8 && tensors < 1e-6, "figures {figures:e}, tensors {tensors:e}");
}

fn model(_: &Folder) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world/sd").to_str().unwrap().to_owned()
}

/// A checkpoint knows nothing of the number of processes that made it.
#[test]
fn resuming_with_another_number_of_processes() {
    let folder = folder();
    let words = |run: &str, steps: u64| {
        format!("output={run} model.dtype=float64 train.accumulation=2 train.steps={steps} {FIDELITY}")
    };
    const FIDELITY: &str = "fidelity.rank=2 fidelity.learning_rate=1e-3 fidelity.latents=latents train.ema=0.5";
    for (run, processes) in [("one", [1, 1, 1]), ("cut", [3, 2, 1])] {
        for (steps, processes) in (2..).zip(processes) {
            fine(folder.train(&format!("{} --resume auto --processes {processes}", words(run, steps))));
        }
    }
    let (figures, tensors) = distance(&learned(&folder, "one"), &learned(&folder, "cut"));
    assert!(figures < 1e-9 && tensors < 1e-7, "figures {figures:e}, tensors {tensors:e}");

    // with as many as before it is the same to the last bit
    fine(folder.train(&format!("{} --processes 2 checkpoints.every=1", words("two", 3))));
    fine(folder.train(&format!("{} --processes 2", words("again", 1))));
    fine(folder.train(&format!("{} --processes 2 --resume", words("again", 3))));
    let bits = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-3/adapter.safetensors"));
    assert!(bits("two") == bits("again"));
}

/// What Prodigy knows besides tensors reaches every rank, too.
#[test]
fn resuming_prodigy() {
    let folder = folder();
    let words = |run: &str, steps: u64| {
        format!(
            "output={run} train.steps={steps} checkpoints.every=1 optimizer.kind=prodigy optimizer.learning_rate=1 \
             optimizer.prodigy={{d0=1e-5,d_coef=50}} --processes 2"
        )
    };
    fine(folder.train(&words("straight", 4)));
    fine(folder.train(&words("cut", 2)));
    fine(folder.train(&format!("{} --resume", words("cut", 4))));
    for file in ["adapter", "optimizer"] {
        let bytes = |run: &str| folder.bytes(&format!("{run}/checkpoints/step-4/{file}.safetensors"));
        assert!(bytes("straight") == bytes("cut"), "{file}");
    }
}

/// One of them sees that nothing gets better, all of them stop.
#[test]
fn stopping_early() {
    let folder = world_folder();
    let words = "output=out sampling.steps=2 replay.tracked=1 train.batch_size=2 train.steps=9 samples.count=0 \
        validation.count=3 validation.every=1 validation.early_stop=2 validation.keep_best=true lora.rank=2 \
        optimizer.learning_rate=1e-9 --processes 2";
    let done = fine(folder.train(words));
    assert!(done.stdout.contains("2 steps done"), "{done:?}");
    assert_eq!(done.stderr.matches("has not improved for 2 rounds").count(), 1, "{done:?}");
    assert_eq!(folder.read("out/checkpoints/latest"), "step-2");
    assert!(folder.exists("out/best/best.json"));
}

#[test]
fn latents_and_images_are_shared() {
    let folder = folder();
    let latents = |out: &str, processes: &str| {
        let setting = format!("fidelity.latents={out}");
        let words = ["latents", "--config", "run.toml", "--set", &setting, "--set", "train.batch_size=4"];
        fine(folder.comat(&[&words[..], &["--set", "model.dtype=float64", "--processes", processes]].concat()))
    };
    let (one, three) = (latents("one", "1"), latents("three", "3"));
    assert_eq!(one.stdout.replace("one", "three"), three.stdout);
    let shard = |of: &str| folder.tensors(&format!("{of}/00000.safetensors"));
    assert!(shard("one") == shard("three"));
    let index = |of: &str| serde_json::from_str::<Value>(&folder.read(&format!("{of}/latents.json"))).unwrap();
    assert_eq!(index("one")["shards"][0]["prompts"], index("three")["shards"][0]["prompts"]);

    let words =
        "--steps 2 --count 2 --batch 1 --grid --dtype float64 --save-latents OUT.safetensors --out OUT --processes";
    let draw = |out: &str, processes: usize| {
        let words = format!("{} {processes}", words.replace("OUT", out));
        folder.generate(common::SD1, &["a red dog", "a blue cat", "a tree"], &words)
    };
    let (one, four) = (draw("alone", 1).ok(), draw("shared", 4).ok());
    assert_eq!(one.stdout.replace("alone", "shared"), four.stdout);
    assert!(folder.bytes("alone") == folder.bytes("shared"));
    assert!(folder.bytes("alone.safetensors") == folder.bytes("shared.safetensors"));
    let again = draw("shared", 4);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("exists already"), "{again:?}");
}

/// A network file system may show a folder as it was: what rank 0 sees is what all go by. Here the second rank has another folder.
#[test]
fn folders_that_look_different() {
    let folder = folder();
    let start = |words: &str| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let ranks = [("0", "a"), ("1", "b")].map(|(rank, out)| {
            let words = words.replace("OUT", out);
            let variables = [("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_PORT", &port), ("MASTER_ADDR", "127.0.0.1")];
            let words: Vec<&str> = words.split(' ').collect();
            folder.start_in(&words, &variables.map(|(name, value)| (name, value.to_owned())))
        });
        ranks.map(Running::wait)
    };
    let model = common::fixture(common::SD1).display().to_string();
    let generate = format!("generate --model {model} --prompts prompts.txt --steps 2 --grid --out OUT");
    let old = "b/00004-a-tree-seed0.png";
    fs::create_dir_all(folder.path("b")).unwrap();
    folder.write(old, "old");
    start(&generate).into_iter().for_each(|rank| _ = fine(rank));
    assert_eq!((folder.names("a").len(), folder.names("b").len()), (2 + 1, 3), "shares, and the grid of all five");
    assert!(folder.bytes(old).values().all(|bytes| bytes.len() > 3));
    fs::remove_dir_all(folder.path("b")).unwrap();
    for rank in start(&generate) {
        rank.error(&["a/00000-a-red-dog-seed0.png exists already"]);
    }

    fs::create_dir_all(folder.path("prompts")).unwrap();
    folder.write("prompts/color_val.txt", "a red dog\na blue cat\na small green bird\ntwo white horses\n");
    let [vqa, clip] = ["vqa", "clip_score"].map(|name| common::fixture(name).display().to_string());
    let evaluate = format!(
        "evaluate --bench t2i-compbench --prompts prompts --vqa {vqa} --clip {clip} --model {model} --steps 2 --seeds 42"
    );
    fine(folder.comat(&format!("{evaluate} --out all").split(' ').collect::<Vec<_>>()));
    let [_, cat, bird, horses] = ["red dog", "blue cat", "small green bird", "white horses"]
        .map(|words| folder.names("all/base/color").into_iter().find(|name| name.contains(words)).unwrap());
    fs::remove_dir_all(folder.path("a")).unwrap();
    fs::create_dir_all(folder.path("b/base/color")).unwrap();
    fs::copy(folder.path(&format!("all/base/color/{cat}")), folder.path(&format!("b/base/color/{cat}"))).unwrap();
    for old in [&bird, &horses] {
        folder.write(&format!("b/base/color/{old}"), "old");
    }
    for rank in start(&format!("{evaluate} --out OUT")) {
        let said = "a/base: scores of 1 of its images have not come; the same command goes on"; // they are in b
        assert!(rank.code == Some(1) && rank.stderr.contains(said), "{rank:?}");
    }
    assert_eq!(folder.names("a/base/color").len(), 2, "the first half");
    for drawn in [&bird, &horses] {
        let of = |out: &str| folder.bytes(&format!("{out}/base/color/{drawn}"));
        assert!(of("b") == of("all"), "{drawn} was missing, but not drawn");
    }
    let scored = folder.read("b/base/scores.rank-1.jsonl");
    assert!(scored.contains(&cat) && !scored.contains(&bird), "of those that rank 0 sees: {scored}");
}

#[test]
fn what_the_environment_cannot_say() {
    let folder = folder();
    let start = |variables: &[(&str, &str)], words: &str| -> Done {
        let variables: Vec<(&str, String)> = variables.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        folder.start_in(&train_words(words), &variables).wait()
    };
    start(&[("RANK", "1")], "").error(&["RANK is set in the environment, but WORLD_SIZE is not"]);
    let both = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "none")];
    start(&both, "").error(&["MASTER_PORT is `none`"]);
    start(&both, "--processes 2").error(&["--processes 2", "RANK is set in the environment", "leave --processes out"]);
    folder.train("ranks.timeout=0").error(&["ranks.timeout is 0"]);
    let nccl = folder.train("--processes 2 ranks.backend=nccl model.device=cpu");
    let why = "ranks.backend is nccl, but rank 0 cannot use NCCL: it computes on the CPU; every rank needs a GPU";
    assert!(nccl.code == Some(1) && nccl.stderr.contains(why), "{nccl:?}");
    folder.train("--processes 0").usage(&["--processes", "at least 1"]);
    assert!(!folder.exists("out"));
    // a batch script of Slurm without srun is one process
    start(&[("SLURM_JOB_ID", "1"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")], "train.steps=1").ok();
}
