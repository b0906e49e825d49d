//! What a new user meets: `comat init`, the model card, prompts of other programs, completions and man pages.

use crate::common::{Done, Folder, SD1, SDXL, fixture};
use std::process::Command;

fn init(folder: &Folder, model: &str, rest: &str) -> Done {
    let (model, captioner) = (fixture(model), fixture("blip"));
    let mut words = vec!["init", "--model", model.to_str().unwrap(), "--captioner", captioner.to_str().unwrap()];
    words.extend(rest.split_whitespace());
    folder.comat(&words)
}

/// The tiny models have the sizes of tiny images, and the rest of the preset as it is.
#[test]
fn a_configuration_that_runs() {
    let folder = Folder::new();
    folder.comat(&["prompts", "--count", "20"]).ok();
    let done = init(&folder, SD1, "--memory 24GB --device cpu --steps 2 --method gradient").ok();
    for part in [
        "Stable Diffusion 1.x, made for 32x32; 24.00 GB on cpu",
        "lora.rank = 128",
        "as published: there is memory enough",
        "Grounding DINO and SAM",
        "measured",
        "The configuration is my.toml.",
    ] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    let text = folder.read("my.toml");
    assert!(text.contains("# samples replayed at a time") && text.contains("size = \"32x32\" "), "{text}");
    // apart from the segmenter, whose networks are on the hub, it runs as it is
    let own: String =
        text.lines().filter(|line| !line.starts_with("segmenter")).map(|line| format!("{line}\n")).collect();
    folder.write("own.toml", own.replace("[attention]", "[attention]\nsegmenter = { kind = \"world\" }"));
    let words = "train --config own.toml --set attention.steps=1 --set sampling.steps=5 --set train.accumulation=1 --set samples.count=0 --dry-run";
    let done = folder.comat(&words.split(' ').collect::<Vec<_>>());
    assert!(
        done.code == Some(0)
            && done.stdout.contains("adapter      rank 128")
            && done.stdout.contains("prompts      20 to train on"),
        "{done:?}"
    );

    init(&folder, SD1, "--memory 24GB").error(&["my.toml exists", "--overwrite"]);
    init(&folder, SD1, "--out .").error(&["--out . is a folder"]);
    let done = init(&folder, SD1, "--memory 24GB --no-measure --out nodir/z.toml").ok();
    let advice = "comat prompts --out prompts/train.jsonl --held-out prompts/held_out.jsonl --overwrite makes both";
    assert!(done.stdout.contains(advice) && folder.exists("nodir/z.toml"), "{}", done.stdout);
    let captioner = "--memory 24GB --no-measure --out other.toml --captioner gone";
    folder
        .comat(
            &[&["init", "--model", fixture(SD1).to_str().unwrap()], &captioner.split(' ').collect::<Vec<_>>()[..]]
                .concat(),
        )
        .error(&["--captioner", "gone"]);
    let done =
        init(&folder, SDXL, "--method gradient --memory 16GB --no-measure --out xl.toml --prompts mine.txt").ok();
    assert!(
        done.stdout.contains("Stable Diffusion XL")
            && done.stdout.contains("comat prompts --out mine.txt --held-out prompts/held_out.jsonl"),
        "{}",
        done.stdout
    );
    let xl = folder.read("xl.toml");
    // a choice; what sd15.toml explains, as sdxl.toml and sdxl-16gb.toml have it; and what sd15.toml lacks
    for part in ["rank = 32", "mode = \"detached\"\n", "weight = 0.5\n", "label_smoothing = 0.0  ", "model = \"stable-"]
    {
        assert!(xl.contains(part), "{part}: {xl}");
    }
    assert!(!xl.contains("extends"), "{xl}");
    init(&folder, "blip", "--out other.toml").error(&["blip"]);
    folder.comat(&["init", "--model", "no/such", "--out", "other.toml"]).error(&["no/such"]);
    assert!(!folder.exists("other.toml"));
}

/// By default preferences, without what belongs to the gradient alone; the file runs as it is.
#[test]
fn a_configuration_with_preferences() {
    let folder = Folder::new();
    folder.comat(&["prompts", "--count", "20"]).ok();
    let done = init(&folder, SD1, "--memory 24GB --device cpu").ok();
    for part in ["train.steps = 500 ", "as in sd15-preference: there is memory enough", "measured: all at once"] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    assert!(!done.stdout.contains("Grounding DINO") && !done.stdout.contains("fidelity"), "{}", done.stdout);
    let text = folder.read("my.toml");
    for part in
        ["[preference]\n", "draws = 8 ", "end_weight = 4 ", "schedule = \"cosine\" ", "ema = 0.97 ", "steps = 25\n"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["[attention]", "[fidelity]", "[mixed]", "mode = ", "chained", "tracked", "policy", "label_smoothing"] {
        assert!(!text.contains(part), "{part}: {text}");
    }
    let words = "train --config my.toml --set train.steps=1 --set sampling.steps=2 --set preference.candidates=2 \
                 --set train.accumulation=1 --set samples.count=0 --set validation.count=1";
    let done = folder.comat(&words.split_whitespace().collect::<Vec<_>>());
    assert!(done.code == Some(0) && !done.stderr.contains("effect"), "{done:?}"); // no setting without effect is named
    let done = init(&folder, SDXL, "--memory 16GB --no-measure --out xl.toml").ok();
    assert!(done.stdout.contains("Stable Diffusion XL"), "{}", done.stdout);
    let xl = folder.read("xl.toml");
    for part in ["[preference]\n", "rank = 32\n", "offload = true", "batch_size = 1\n"] {
        assert!(xl.contains(part), "{part}: {xl}");
    }
    init(&folder, SD1, "--method magic").usage(&["magic", "preferences", "gradient"]);
}

#[test]
fn little_memory() {
    let folder = Folder::new();
    let done = init(&folder, SD1, "--memory 1MB --device cpu");
    assert!(
        done.code == Some(0) && done.stderr.contains("1 MB is too little even for one sample at a time"),
        "{done:?}"
    );
    assert!(folder.read("my.toml").contains("offload = true"));
    // what small networks need fits, so that a trajectory has several samples
    let done = init(&folder, SD1, "--memory 10GB --device cpu --out b.toml").ok();
    for part in [
        "lora.rank = 32",
        "less memory than 14.00 GB",
        "train.batch_size = 4 ",
        "train.accumulation = 4 ",
        "measured: all at once",
    ] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    assert!(folder.read("b.toml").contains("batch_size = 4 ") || folder.read("b.toml").contains("batch_size = 4\n"));
    init(&folder, SD1, "--memory lots").usage(&["`lots` is no amount of memory"]);
}

#[test]
fn a_model_card_beside_the_lora() {
    let folder = Folder::of_run();
    let done = folder.train("train.steps=1 samples.count=2 output=runs/cards").ok();
    assert!(done.stdout.contains("hf upload YOUR-NAME/cards runs/cards/adapter ."), "{}", done.stdout);
    let card = folder.read("runs/cards/adapter/README.md");
    for part in [
        "---\nlibrary_name: diffusers\n",
        "# cards\n",
        "A LoRA for pipeline_sd1,",
        "![base model above, with the LoRA below](before-after.png)",
        "| steps | 1, of 2 samples each |",
        "| LoRA | rank 2, alpha 2 |",
        "`<lora:cards:1>`",
        "| `cards.safetensors` into `models/loras` |",
        "| sampler | `ddpm` | Euler a (which takes the steps of DDPM) |",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains(fixture(SD1).to_str().unwrap()), "no path of this machine: {card}");
    assert!(folder.exists("runs/cards/adapter/before-after.png"));
    assert!(folder.read("runs/cards/samples/step-1/README.md").contains("| ComfyUI (*KSampler*) |"));
}

#[test]
fn syntax_of_other_programs_is_pointed_out() {
    let folder = Folder::of_run();
    folder.write("prompts.txt", "a (red:1.3) dog\na (blue:1.2) cat\na bird <lora:ink:1>\na fish BREAK a cow\n");
    let done = folder.train("train.steps=1");
    assert_eq!(done.code, Some(0), "{done:?}");
    let warnings: Vec<&str> =
        done.stderr.lines().filter(|line| line.contains("WARN") && line.contains("prompt `")).collect();
    assert_eq!(warnings.len(), 3, "{done:?}");
    assert!(warnings[0].contains("`a (red:1.3) dog` (and 1 more): `(red:1.3)`"), "{warnings:?}");
    assert!(warnings[1].contains("`<lora:ink:1>`") && warnings[1].contains("--lora"), "{warnings:?}");
    assert!(warnings[2].contains("`BREAK`"), "{warnings:?}");
    let done = folder.generate(SD1, &["a (red:1.3) dog"], "--steps 1 --out g");
    assert!(done.code == Some(0) && done.stderr.contains("read as text"), "{done:?}");
}

#[test]
fn completions_and_man_pages() {
    let folder = Folder::new();
    for (shell, part) in [("bash", "complete -F _comat"), ("zsh", "#compdef comat"), ("fish", "complete -c comat")] {
        let done = folder.comat(&["completions", shell]).ok();
        assert!(done.stdout.contains(part) && done.stdout.contains("demo"), "{shell}");
        folder.write(shell, done.stdout);
    }
    if let Ok(checked) = Command::new("bash").arg("-n").arg(folder.path("bash")).output() {
        assert!(checked.status.success(), "{checked:?}");
    }
    folder.comat(&["completions", "dosshell"]).usage(&["dosshell", "bash"]);
    folder.comat(&["man", "--out", "man"]).ok();
    let pages = folder.names("man");
    assert!(
        ["comat.1", "comat-train.1", "comat-world-judge.1"].iter().all(|page| pages.contains(&(*page).into())),
        "{pages:?}"
    );
    assert!(folder.read("man/comat-demo.1").contains("miniature world"));
}
