//! Every command of README.md and GUIDE.md, run in the order in which a reader meets them: in one folder, in which tiny models stand for the
//! published ones, at small sizes and few steps. What a command says is tested elsewhere; here it must do what it is asked.

use crate::common::{Folder, SD1, SDXL, fixture, markdown};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Ids of the hub, and the fixtures that stand for them.
const IDS: [(&str, &str); 9] = [
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", SD1),
    ("stabilityai/stable-diffusion-xl-base-1.0", SDXL),
    ("Salesforce/blip-image-captioning-large", "blip"),
    ("IDEA-Research/grounding-dino-tiny", "grounding_dino"),
    ("IDEA-Research/grounding-dino-base", "grounding_dino"),
    ("facebook/sam-vit-base", "sam"),
    ("Salesforce/blip-vqa-capfilt-large", "vqa"),
    ("sentence-transformers/all-mpnet-base-v2", "sentence_mpnet"),
    ("openai/clip-vit-large-patch14", "clip_score"),
];

/// Folders that the guide has on its disk.
const FOLDERS: [(&str, &str); 3] =
    [("models/sd15", SD1), ("models/grounding-dino-base", "grounding_dino"), ("models/sam-vit-base", "sam")];

/// What makes a command short, by how it begins. The first that fits counts.
const SHORT: [(&str, &str); 22] = [
    (
        "comat train --config world",
        "--set train.steps=1 --set train.batch_size=2 --set sampling.steps=5 --set samples.count=1 --set validation.count=2 --set replay.tracked=1",
    ),
    ("comat train --config run.toml", "--set train.steps=1 --set train.batch_size=4"),
    (
        "comat train --config my.toml",
        "--set train.steps=1 --set train.batch_size=1 --set train.accumulation=1 --set sampling.size=32 \
         --set sampling.steps=5 --set lora.rank=2 --set fidelity.rank=2 --set samples.count=1 --set validation.count=1",
    ),
    (
        "comat train --config sd15-preference --dry-run",
        "--set output=runs/other --set sampling.size=32 --set sampling.steps=5 --set lora.rank=2",
    ),
    (
        "comat train --config sd15-preference",
        "--set train.steps=1 --set train.batch_size=1 --set train.accumulation=1 --set sampling.size=32 --set sampling.steps=5 --set lora.rank=2 \
         --set preference.draws=1 --set samples.count=1 --set validation.count=1",
    ),
    (
        "comat train",
        "--set train.steps=1 --set train.batch_size=1 --set train.accumulation=1 --set sampling.size=32 --set sampling.steps=5 --set lora.rank=2 \
         --set fidelity.rank=2 --set samples.count=1 --set validation.count=1",
    ),
    ("comat plan", "--set sampling.size=32 --set sampling.steps=5 --set lora.rank=2 --set fidelity.rank=2"),
    ("comat latents --config run.toml", "--set train.steps=1"),
    ("comat prompts", "--count 70 --held-out-count 7 --overwrite"),
    ("comat generate --model weights/world/sd --prompts", "--overwrite"),
    ("comat generate", "--steps 2 --size 32 --overwrite"),
    ("comat attention", "--steps 2 --size 32 --overwrite"),
    ("comat init", "--overwrite"),
    ("comat prepare", "--size 16 --steps 1 --images 2 --sampling-steps 2 --tune lora --rank 2 --dtype float32"),
    ("comat evaluate", "--size 32 --steps 2 --seeds 42-43 --dtype float32 --detector-threshold 0.1"),
    ("comat world prompts --split held-out", "--count 3"),
    ("comat world prompts --split train", "--count 20"),
    ("comat world sweep", "--guidance 1,4 --count 1 --limit 2"),
    ("comat world pretrain", "--steps 1"),
    ("comat segment", "--box-threshold 0.01 --text-threshold 0.01"),
    ("comat lora", ""),
    ("comat", ""),
];

/// Commands that have tests of their own, since they wait for something, or compute for long.
const ELSEWHERE: [(&str, &str); 8] = [
    ("comat generate --model stable-diffusion-v1-5/stable-diffusion-v1-5 --variant", "hub.rs"),
    ("comat entities --mode", "entities.rs"),
    ("comat demo", "demo.rs"),
    ("comat doctor --check", "doctor.rs"),
    ("comat report runs/a --serve", "report_serve.rs"),
    ("comat world pretrain", "pretrain.rs"),
    ("comat world sweep", "sweep.rs"),
    ("comat lora convert --unet-only", "lora_text.rs"),
];

/// Commands with their arguments; without any, a verb is only named.
fn commands(text: &str) -> Vec<String> {
    let whole =
        |code: String| code.split(" #").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let all = markdown::code(text).into_iter().map(whole);
    let commands = all.filter(|code| code.starts_with("comat ") && !code.contains('…'));
    commands
        .filter(|code| code.split(' ').any(|word| word.starts_with('-') || word.contains(['/', '"', '.'])))
        .collect()
}

/// With what makes it short, before a redirection: options that it has get another value.
fn shortened(command: &str) -> String {
    let more = SHORT.iter().find(|(start, _)| command.starts_with(start)).map_or("", |(_, more)| more);
    let (command, file) = command.split_once(" > ").unwrap_or((command, ""));
    let mut words: Vec<&str> = command.split(' ').collect();
    let mut rest = more.split_whitespace().peekable();
    while let Some(option) = rest.next() {
        let value = rest.next_if(|word| !word.starts_with("--"));
        match words.iter().position(|word| *word == option).filter(|_| option != "--set") {
            Some(place) => words.splice(place + 1..place + 2, value).for_each(drop),
            None => words.extend([option].into_iter().chain(value)),
        }
    }
    let end = if file.is_empty() { String::new() } else { format!(" > {file}") };
    words.join(" ") + &end
}

/// The fixtures as models that were fetched, and what else the guide takes for granted.
fn furnish(folder: &Folder) {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    for (id, name) in IDS {
        let repository = folder.path("hub").join(format!("models--{}", id.replace('/', "--")));
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::create_dir_all(repository.join("snapshots")).unwrap();
        fs::write(repository.join("refs/main"), COMMIT).unwrap();
        symlink(fixture(name).canonicalize().unwrap(), repository.join("snapshots").join(COMMIT)).unwrap();
    }
    fs::create_dir(folder.path("models")).unwrap();
    for (path, name) in FOLDERS {
        symlink(fixture(name).canonicalize().unwrap(), folder.path(path)).unwrap();
    }
    let bench = folder.path("T2I-CompBench/examples/dataset");
    fs::create_dir_all(&bench).unwrap();
    for category in ["color", "shape", "texture"] {
        fs::write(bench.join(format!("{category}_val.txt")), "a red dog and a blue cat\n").unwrap();
    }
    folder.edit_text("run.toml", |text| text.replace("\"out\"", "\"runs/a\""));
}

/// What other commands of the guide need, and no command of it makes by that name.
fn in_between(folder: &Folder, command: &str) {
    let copy = |from: &str, to: &str| {
        fs::create_dir_all(folder.path(to).parent().unwrap()).unwrap();
        let _ = fs::copy(folder.path(from), folder.path(to)).unwrap_or_else(|e| panic!("{from}: {e}"));
    };
    let drawn = |folder: &Folder| -> PathBuf {
        let mut names =
            folder.names("out").into_iter().filter(|name| name.starts_with("00000") && name.ends_with(".png"));
        folder.path("out").join(names.next().expect("an image was drawn"))
    };
    if command.starts_with("comat lora info mine") {
        copy("runs/sd15/adapter/pytorch_lora_weights.safetensors", "mine.safetensors");
    } else if command.starts_with("comat lora convert runs/sd15/checkpoints/step-400") {
        let [from, to] = ["step-1", "step-400"].map(|step| folder.path(&format!("runs/sd15/checkpoints/{step}")));
        symlink(from.canonicalize().unwrap(), to).unwrap();
    } else if command.starts_with("comat segment") {
        fs::copy(drawn(folder), folder.path("IMAGE.png")).unwrap();
    } else if command.starts_with("comat report runs/a runs/b") && !folder.exists("runs/b") {
        let copied = Command::new("cp").args(["-r", "runs/a", "runs/b"]).current_dir(folder.path("")).status().unwrap();
        assert!(copied.success());
    } else if command.starts_with("comat report mine") {
        symlink(folder.path("eval/lora"), folder.path("mine")).unwrap();
        symlink(folder.path("eval/base"), folder.path("theirs")).unwrap();
    }
}

#[test]
fn every_command_of_the_guide_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = Folder::of_run();
    furnish(&folder);
    let (mut ran, mut failed) = (0, vec![]);
    let mut elsewhere: Vec<&str> = ELSEWHERE.iter().map(|(start, _)| *start).collect();
    for file in ["README.md", "GUIDE.md"] {
        for command in commands(&fs::read_to_string(root.join(file)).unwrap()) {
            if let Some((start, test)) = ELSEWHERE.iter().find(|(start, _)| command.starts_with(start)) {
                elsewhere.retain(|left| left != start);
                assert!(root.join("crates/cli/tests").join(test).exists(), "{test}");
                continue;
            }
            in_between(&folder, &command);
            let program = folder.command(&[]);
            let mut shell = Command::new("sh");
            let binaries = Path::new(program.get_program()).parent().unwrap();
            let line = shortened(&command);
            shell.args(["-c", &line]).current_dir(folder.path("")).stdin(Stdio::null());
            shell.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
            shell.env("T2I", "T2I-CompBench/examples/dataset"); // a line of the shell's own sets it there
            shell.env("PATH", format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap()));
            let done = shell.output().unwrap();
            ran += 1;
            if !done.status.success() {
                failed.push(format!("{file}: {line}\n    {}", String::from_utf8_lossy(&done.stderr).trim()));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {ran} failed:\n{}", failed.len(), failed.join("\n"));
    assert!(elsewhere.is_empty(), "commands that are not in the guide any more: {elsewhere:?}");
    assert!(ran >= 38, "{ran}");
}
