//! What the program says of the most common mistakes, as `errors.txt` has it: what users read is seen when it changes. After a change on
//! purpose: `cargo xtask docs`.

use crate::common::{Done, Folder, SD1, fixture, train_words};
use std::{env, fs, path::Path};

/// What was typed and what came of it, one below the other.
struct Said {
    folder: Folder,
    text: String,
}

impl Said {
    fn add(&mut self, mistake: &str, words: &[&str]) {
        let mut command = self.folder.command(words);
        self.told(mistake, words, command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap().into());
    }

    fn told(&mut self, mistake: &str, words: &[&str], Done { code, stdout, stderr }: Done) {
        assert!(code.is_some_and(|code| code != 0), "{mistake}: it ended with {code:?}, and said {stdout}{stderr}");
        let command = shlex::try_join(words.iter().copied()).unwrap();
        let text = format!("# {mistake}\n$ comat {command}\n{}\n\n", stderr.trim_end());
        self.text += &self.neutral(&text);
    }

    /// Without the places of this machine.
    fn neutral(&self, text: &str) -> String {
        let folder = self.folder.path("").canonicalize().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
        [(self.folder.path(""), ""), (folder.join(""), ""), (fixtures.join(""), "FIXTURES/")]
            .iter()
            .fold(text.to_owned(), |text, (path, name)| text.replace(&path.display().to_string(), name))
    }

    fn train(&mut self, mistake: &str, words: &str) {
        self.add(mistake, &train_words(words));
    }

    fn generate(&mut self, mistake: &str, words: &str) {
        let model = fixture(SD1).display().to_string();
        let mut all = vec!["generate", "--model", &model, "--prompt", "x"];
        all.extend(words.split_whitespace());
        self.add(mistake, &all);
    }

    fn plain(&mut self, mistake: &str, line: &str) {
        self.add(mistake, &line.split_whitespace().collect::<Vec<_>>());
    }
}

#[test]
fn every_line_is_as_it_was() {
    let mut said = Said { folder: Folder::of_run(), text: String::new() };
    let single = fixture("unet_sd1").display().to_string();
    let strange = fixture("lora/kohya.safetensors").display().to_string();

    said.plain("no such command", "tarin");
    said.plain("no such option", "train --config run.toml --dryrun");
    said.plain("an option without its value", "generate --model");
    said.plain("no such configuration", "train --config gone.toml");
    said.plain("a folder for a configuration", "train --config .");
    said.train("an unknown key", "train.stpes=9");
    said.train("a value of another type", "train.steps=many");
    said.train("a value out of range", "optimizer.learning_rate=-1");
    said.train("two settings that do not go together", "replay.tracked=60");
    said.train("a size that the model cannot draw", "sampling.size=33");
    said.train("an unknown sampler", "sampling.sampler=foo");
    said.train("a setting without a value", "--set nonsense");
    said.train("no such model", "model.path=gone");
    said.train("a file for a model", "model.path=prompts.txt");
    said.train("a single network for a model", &format!("model.path={single}"));
    said.train("another network for a captioner", &format!("captioner.path={single}"));
    said.train("a model by its id, offline", "model.path=someone/some-model");
    said.train("an address for a model", "model.path=https://huggingface.co/someone/some-model");
    said.train("no such prompts", "prompts.train=gone.txt");
    said.folder.write("empty.txt", "\n\n");
    said.train("no prompts in the file", "prompts.train=empty.txt");
    said.train("no such layer", "lora.targets=[\"to_x\"]");
    said.train("a GPU that is not there", "model.device=cuda:99");
    said.train("no such pairs", "mixed.pairs=gone");
    said.train("nothing to resume", "--resume");
    said.folder.write("broken.toml", "output = \"out\"\n[model\n");
    said.plain("a configuration that is no TOML", "train --config broken.toml");

    said.plain("no prompt", "generate --model gone --out g");
    said.generate("no place for the images", "--steps 1");
    said.generate("an unknown device", "--out g --device tpu");
    said.generate("an unknown dtype", "--out g --dtype int8");
    said.generate("more steps than there are", "--out g --steps 1001");
    said.generate("no such LoRA", "--out g --lora gone.safetensors");
    said.generate("a LoRA of another model", &format!("--out g --lora {strange}"));
    said.folder.write("notes.safetensors", "notes");
    said.generate("a LoRA that is no safetensors file", "--out g --lora notes.safetensors");
    said.generate("a LoRA by its id, offline", "--out g --lora someone/some-lora");
    said.generate("a LoRA by an address, offline", "--out g --lora https://example.com/lora.safetensors");
    said.folder.write("00000-x-seed0.png", "mine");
    said.generate("an image that is there already", "--out . --steps 1");
    said.generate("a file where a folder should be", "--out prompts.txt --steps 1");
    said.folder.comat(&train_words("train.steps=1")).ok();
    said.train("a run that is there already", "train.steps=2");
    said.train("resuming with another rank", "--resume train.steps=2 lora.rank=3");
    said.plain("a report of nothing", "report gone");
    said.plain("a report of a folder that is no run", "report .");
    said.plain("information about what is no LoRA", "lora info notes.safetensors");
    said.plain("a conversion of what is no LoRA", "lora convert notes.safetensors --to kohya --out o.safetensors");
    said.folder.write("photo.png", "GIF89a");
    let nouns = "--nouns dog --detector gone --segmenter gone --out painted.png";
    said.plain("an image that cannot be read", &format!("segment --image photo.png {nouns}"));
    said.plain("no such images to score", "evaluate --bench tifa --prompts . --images gone");
    said.plain("no such shell for completions", "completions cmd");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors.txt");
    if env::var_os("COMAT_RENEW_DOCS").is_some() {
        fs::write(&file, &said.text).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let differs = said.text.lines().zip(kept.lines()).find(|(now, before)| now != before);
    assert!(said.text == kept, "tests/errors.txt is of another version; the first line that differs: {differs:?}");
}
