//! The miniature stack, trained for a moment: what is written, and that every other verb opens it.

use crate::common::Folder;

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
fn nothing_to_do_is_wrong_usage() {
    let folder = Folder::new();
    folder.comat(&words("world pretrain --steps 0 --out stack")).usage(&["--steps"]);
    folder.comat(&words("world sharpness --count 0")).usage(&["--count"]);
    folder.comat(&words("world pretrain diffusion --out stack --learning-rate 2")).usage(&["between 0 and 1"]);
    folder.comat(&words("world pretrain diffusion --out stack --batch 0")).usage(&["--batch"]);
}

#[test]
fn a_stack_from_nothing() {
    let folder = Folder::new();
    folder.comat(&words("world pretrain captioner --out stack")).error(&["stack", "needs the trained diffusion"]);
    folder.comat(&words("world pretrain diffusion --out stack")).error(&["world pretrain vae --out stack"]);

    let done = folder.comat(&words("world pretrain --steps 2 --out stack")).ok();
    assert!(done.stdout.contains("vae: a pixel of a new image"), "{}", done.stdout);
    let trained = folder.bytes("stack");
    folder.comat(&words("world pretrain diffusion --steps 2 --out stack")).ok();
    let again = folder.bytes("stack");
    let weights = trained.keys().filter(|name| name.extension().is_some_and(|e| e == "safetensors"));
    assert!(weights.map(|name| assert!(trained[name] == again[name], "{}", name.display())).count() >= 7);
    folder.comat(&words("world pretrain diffusion --steps 3 --out stack")).error(&["diffusion.safetensors", "--out"]);

    let on = "world pretrain diffusion --steps 1 --batch 2 --captions true --learning-rate 1e-4 --out other --from";
    folder.comat(&[&words(on)[..], &["none"]].concat()).error(&["none/sd/model_index.json", "world pretrain"]);
    folder.comat(&[&words(on)[..], &["stack"]].concat()).ok();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        let [one, other] =
            ["stack", "other"].map(|stack| std::fs::read(folder.path(&format!("{stack}/sd/vae/{name}"))).unwrap());
        assert!(one == other, "{name}");
    }
    folder.comat(&[&words(on)[..], &["other"]].concat()).error(&["diffusion.safetensors", "other settings"]);

    let done = folder.comat(&words("world sharpness --stack stack --count 40")).ok();
    let rates: Vec<&str> = done.stdout.lines().filter(|line| line.contains("colours swapped")).collect();
    assert!(rates.len() == 3 && !rates[0].contains("(0 images)"), "{}", done.stdout);
    folder.comat(&words("world sharpness --stack none")).error(&["none/sd/model_index.json", "world pretrain"]);

    folder.comat(&words("generate --model stack/sd --prompt star --steps 2 --out images")).ok();
    folder.write("prompts.txt", "a red circle\n");
    folder.write(
        "run.toml",
        "output = 'run'\n[model]\npath = 'stack/sd'\n[captioner]\npath = 'stack/blip'\n[prompts]\ntrain = 'prompts.txt'\n\
         [sampling]\nsteps = 2\n[replay]\ntracked = 1\n[train]\nsteps = 1\nbatch_size = 1\n",
    );
    folder.comat(&words("train --config run.toml")).ok();
    folder.assert_no_leftovers();
}
