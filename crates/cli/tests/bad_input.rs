//! What the program says of inputs that it cannot use: one line with file and place, and nothing half-written.

use crate::common;

use crate::common::{Folder, SD1, SDXL, fixture};
use serde_json::json;
use std::{fs, os::unix::fs::symlink};
use tch::{Device, Kind, Tensor};

const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";

/// A training run that must fail before it has written anything.
#[track_caller]
fn refused(folder: &Folder, words: &str, parts: &[&str]) {
    folder.train(words).error(parts);
    assert!(!folder.exists("out"), "the run's folder was made");
    folder.assert_no_leftovers();
}

#[test]
fn missing_files() {
    let folder = Folder::of_run();
    refused(&folder, "model.path=gone", &["gone: no such file or folder"]);
    refused(&folder, "captioner.path=gone", &["captioner gone", "gone/config.json: no such file or folder"]);
    refused(&folder, "prompts.train=gone.txt", &["gone.txt: no such file or folder"]);
    refused(&folder, "prompts.validation=gone.txt", &["gone.txt: no such file or folder"]);
    refused(&folder, "lora.init=gone.safetensors", &["gone.safetensors: no such file or folder"]);
    folder.comat(&["train", "--config", "gone.toml"]).error(&["gone.toml: no such file or folder"]);
    folder.generate(SD1, &["x"], "--out g --lora gone.safetensors").error(&["gone.safetensors: no such file"]);
    folder.generate(SD1, &[], "--out g --prompts gone.jsonl").error(&["gone.jsonl: no such file"]);
    folder.comat(&["generate", "--model", "gone", "--prompt", "x", "--out", "g"]).error(&["gone: no such file"]);
    folder.trace("--out t.safetensors").error(&["noise.safetensors: no such file"]);
    assert_eq!(folder.names(""), ["prompts.txt", "run.toml"]);
}

/// The reason is said once, though it is found below two layers of the program.
#[test]
fn causes_are_not_repeated() {
    let said = Folder::of_run().train("prompts.train=gone.txt").error(&[]).stderr;
    assert_eq!(said, "comat: error: gone.txt: no such file or folder\n");
}

#[test]
fn things_that_are_no_model() {
    let folder = Folder::of_run();
    refused(&folder, "model.path=prompts.txt", &["prompts.txt: is a file; a model is a folder"]);
    let unet = fixture("unet_sd1");
    refused(&folder, &format!("model.path={}", unet.display()), &["unet_sd1: holds a single network"]);
    fs::create_dir(folder.path("empty")).unwrap();
    refused(&folder, "model.path=empty", &["empty: has no model_index.json"]);
    let clip = fixture("clip_sd1");
    refused(&folder, &format!("captioner.path={}", clip.display()), &["clip_sd1/config.json: model_type is", "blip"]);
    let vqa = fixture("vqa");
    refused(&folder, &format!("captioner.path={}", vqa.display()), &["vqa: this BLIP answers questions"]);
}

#[test]
fn models_that_do_not_fit_together() {
    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/unet/config.json", "cross_attention_dim", 32);
    refused(&folder, "", &["model: unet/config.json: cross_attention_dim is 32, but the text encoder gives 16"]);

    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/unet/config.json", "in_channels", 9);
    refused(&folder, "", &["unet/config.json: 9 channels in and 4 out", "inpainting"]);

    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/unet/config.json", "layers_per_block", 2);
    refused(&folder, "", &["do not fit its config.json", UNET, "is missing"]);

    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/model_index.json", "_class_name", "FluxPipeline");
    refused(&folder, "", &["model/model_index.json: _class_name is FluxPipeline; only Stable Diffusion"]);

    // of the same networks, so that the next mistake is the first one
    folder.edit_json("model/unet/config.json", "act_fn", "mish");
    for class in [json!("StableDiffusionImg2ImgPipeline"), json!(["my_pipeline", "StableDiffusionPipeline"])] {
        folder.edit_json("model/model_index.json", "_class_name", class);
        refused(&folder, "", &["model/unet/config.json: act_fn is \"mish\""]);
    }
}

#[test]
fn configurations_of_models_that_are_not_supported() {
    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/unet/config.json", "act_fn", "mish");
    refused(&folder, "", &["model/unet/config.json: act_fn is \"mish\"; only \"silu\" is supported"]);
    folder.edit_json("model/unet/config.json", "act_fn", "silu");
    folder.edit_json("model/unet/config.json", "new_feature", true);
    refused(&folder, "--strict", &["model/unet/config.json: new_feature is not known to this program"]);
    refused(&folder, "model.strict=true", &["model/unet/config.json: new_feature is not known to this program"]);
    folder.write("model/unet/config.json", "{ \"act_fn\": ");
    refused(&folder, "", &["model/unet/config.json: EOF while parsing", "line 1"]);

    let folder = Folder::of_run_on_copies();
    folder.edit_json("model/scheduler/scheduler_config.json", "beta_schedule", "sigmoid");
    refused(&folder, "", &["scheduler_config.json: beta_schedule is sigmoid"]);
    folder.copy(SD1, "model");
    folder.edit_json("captioner/config.json", "model_type", "blip-2");
    refused(&folder, "", &["captioner/config.json: model_type is \"blip-2\"; only \"blip\" is supported"]);
}

#[test]
fn damaged_weights() {
    let folder = Folder::of_run_on_copies();
    let whole = fs::read(folder.path(UNET)).unwrap();
    let size = whole.len();

    folder.write(UNET, &whole[..size - 100]);
    refused(&folder, "", &[UNET, "the file is truncated", &format!("{} bytes, {size} expected", size - 100)]);
    folder.write(UNET, &whole[..1000]);
    refused(&folder, "", &[UNET, "truncated"]);
    folder.write(UNET, &whole[..5]);
    refused(&folder, "", &[UNET, "shorter than a header"]);
    folder.write(UNET, "");
    refused(&folder, "", &[UNET, "this file is empty"]);
    let mut corrupt = whole.clone();
    corrupt[20..40].fill(b'{');
    folder.write(UNET, &corrupt);
    refused(&folder, "", &[UNET, "corrupt"]);
    folder.write(UNET, [&whole[..], b"more"].concat());
    refused(&folder, "", &[UNET, "has bytes behind its last tensor"]);

    folder.write(UNET, &whole);
    folder.edit_tensors(UNET, |all| {
        all.remove("conv_in.weight");
        all.insert("conv_out.bias".into(), Tensor::zeros([7], (Kind::Float, Device::Cpu)));
        all.insert("who.is_this".into(), Tensor::zeros([7], (Kind::Float, Device::Cpu)));
    });
    let parts = ["conv_in.weight is missing", "conv_out.bias has shape [7], expected [4]", "who.is_this is unexpected"];
    refused(&folder, "", &parts);
}

#[test]
fn pickles() {
    let folder = Folder::of_run_on_copies();
    let rename = |from: &str, to: &str| fs::rename(folder.path(from), folder.path(to)).unwrap();
    rename(UNET, "model/unet/diffusion_pytorch_model.bin");
    refused(&folder, "", &[UNET, "diffusion_pytorch_model.bin beside it is a pickle: convert it to safetensors"]);
    rename("model/unet/diffusion_pytorch_model.bin", UNET);
    rename("captioner/model.safetensors", "captioner/pytorch_model.bin");
    refused(&folder, "", &["captioner/model.safetensors", "pytorch_model.bin beside it is a pickle"]);
    folder.write("lora.pt", "x");
    folder.generate(SD1, &["x"], "--out g --lora lora.pt").error(&["lora.pt: this is a pickle", "convert it"]);
    assert!(!folder.exists("g"));
}

#[test]
fn prompt_files() {
    let folder = Folder::of_run();
    folder.write("prompts.txt", "\n \n");
    refused(&folder, "", &["prompts.txt: no prompts in it"]);
    folder.write("p.jsonl", "{\"prompt\": \"a dog\"}\n\n{\"prompt\": \"a cat\"\n");
    refused(&folder, "prompts.train=p.jsonl", &["p.jsonl:3: EOF while parsing an object, column 18"]);
    folder.write("p.jsonl", "{\"promt\": \"a dog\"}\n");
    refused(&folder, "prompts.train=p.jsonl", &["p.jsonl:1: missing field `prompt`"]);
    folder.write("p.jsonl", "{\"prompt\": \"a dog\", \"entities\": [{\"nuon\": \"dog\"}]}\n");
    refused(&folder, "prompts.train=p.jsonl", &["p.jsonl:1: ", "nuon"]);
    folder.write("prompts.txt", b"a dog\n\xff\xfe\n");
    refused(&folder, "", &["prompts.txt:2: not valid UTF-8"]);
    folder.write("prompts.xml", "a dog\n");
    refused(
        &folder,
        "prompts.train=prompts.xml",
        &["prompts.xml: a prompt file ends in .txt, .jsonl, .json, .csv or .tsv"],
    );
}

#[test]
fn run_files() {
    let folder = Folder::of_run();
    refused(&folder, "train.stepz=5", &["run.toml with train.stepz=5: unknown key `stepz`; did you mean `steps`?"]);
    refused(
        &folder,
        "sampling.sampler=dpm",
        &["with sampling.sampler=dpm: sampling.sampler: unknown value `dpm`; did you mean `ddpm`?"],
    );
    refused(&folder, "replay.tracked=9", &["run.toml: replay.tracked is 9, more than the 4 sampling steps"]);
    refused(&folder, "lora.rank=0", &["run.toml: lora.rank is 0, it must be from 1 to 4096"]);
    refused(&folder, "sampling.guidance_scale=inf", &["sampling.guidance_scale is inf", "it must be from 0 to 1000"]);
    refused(&folder, "sampling.steps=1001", &["1001 sampling steps: must be 1 to 1000"]);
    refused(&folder, "sampling.size=33", &["size 33x33: width and height must be multiples of 4"]);
    refused(&folder, "sampling.size=4", &["size 4x4", "at least 8"]);
    refused(
        &folder,
        "lora.targets=[\"to_x\"]",
        &["diffusion_pytorch_model", "no layer ends in the lora target `to_x`"],
    );
    refused(&folder, "lora.targets=[\"conv1\"]", &["conv1 is not a linear layer"]);
    refused(&folder, "train.batch_size=100000000000", &["train.batch_size is 100000000000"]);
    folder.train("--set nonsense").error(&["--set nonsense: write key=value"]);
    folder.train("--set").usage(&["--set <KEY=VALUE>"]);

    folder.edit_text("run.toml", |text| text + "[validation]\nevery = 5\ncuont = 3\n");
    let line = folder.read("run.toml").lines().count();
    refused(&folder, "", &[&format!("run.toml:{line}:1: unknown key `cuont`; did you mean `count`?")]);
    folder.write("run.toml", "output = \"out\"\n[model\n");
    refused(&folder, "", &["run.toml:2:7: "]);
    folder.write("run.toml", "output = 'out'\n[model]\npath = 'm'\n");
    refused(&folder, "", &["missing key `captioner`"]);
    folder.write("run.toml", b"output = '\xff'");
    refused(&folder, "", &["run.toml:1: not valid UTF-8"]);
    folder.comat(&["train", "--config", "."]).error(&[".: this is a folder, not a file"]);
}

#[test]
fn arguments_of_generate() {
    let folder = Folder::new();
    let usage = |words, parts: &[&str]| {
        folder.generate(SD1, &["x"], words).usage(parts);
    };
    usage(
        "--out g --sampler foo",
        &["unknown sampler `foo`; there are ddpm, ddim, euler, euler_a, dpm++_2m and dpm++_2m_karras"],
    );
    usage("--out g --steps 0", &["--steps", "at least 1"]);
    usage("--out g --size 3y", &["`3y` is not a size"]);
    usage("--out g --device tpu", &["unknown device `tpu`"]);
    usage("--out g --dtype int8", &["unknown dtype `int8`"]);
    usage("--out g --lora-scale 2", &["--lora"]);
    usage("", &["--out"]);
    folder.generate(SD1, &[], "--out g").usage(&["--prompt"]);

    let error = |words, parts: &[&str]| {
        folder.generate(SD1, &["x"], words).error(parts);
    };
    error("--out g --size 33", &["size 33x33: width and height must be multiples of 4"]);
    error("--out g --eta 3", &["eta is 3, it must be from 0 to 1"]);
    error("--out g --guidance-scale nan", &["guidance_scale is NaN"]);
    error("--out g --steps 1001", &["1001 sampling steps: must be 1 to 1000"]);
    error("--out g --device cuda:99", &["cuda:99", "use cpu or auto"]);
    assert_eq!(folder.names(""), [""; 0]);
}

/// A file in the place of the output folder stands for every folder that cannot be made; tests may run as root, whom no
/// permission stops.
#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::of_run();
    folder.write("file", "mine");
    let parts = ["file: a file of that name is where a folder should be"];
    folder.train("output=file").error(&parts);
    folder.generate(SD1, &["x"], "--out file --steps 1").error(&parts);
    let parts = ["file/in: a part of this path is a file"];
    folder.train("output=file/in").error(&parts);
    folder.generate(SD1, &["x"], "--out file/in --steps 1").error(&parts);
    let words = "--out g --steps 1 --save-latents file/l.safetensors";
    folder.generate(SD1, &["x"], words).error(&["file/l.safetensors: a part of this path is a file"]);
    assert_eq!(folder.read("file"), "mine");
    folder.assert_no_leftovers();
}

/// Whatever is being written when the room ends: what is there is whole, and the same as with room enough.
#[test]
fn training_on_a_full_disk() {
    let folder = Folder::of_run();
    let words = common::train_words("output=disk/out checkpoints.every=1 checkpoints.keep=0");
    folder.comat(&words).ok();
    fs::rename(folder.path("disk"), folder.path("whole")).unwrap();
    // Too small by a page, the disk is full in the last file of all; the others end it in checkpoints.
    let needed = folder.kib_on_disk("whole");
    let mut kept = 0;
    for kib in [20, needed / 4, needed / 3, needed / 2, needed - 4] {
        let Some(done) = folder.on_small_disk(kib, &words) else { return };
        done.error(&["the disk is full"]);
        folder.assert_no_leftovers();
        folder.events("disk.after/out");
        kept += folder.names("disk.after/out/checkpoints").iter().filter(|n| n.starts_with("step-")).count();
        for name in folder.names("disk.after/out/checkpoints") {
            let [there, here] =
                ["disk.after", "whole"].map(|disk| folder.bytes(&format!("{disk}/out/checkpoints/{name}")));
            assert!(name == "latest" || there == here, "{name} of {kib} KiB");
        }
        for name in folder.names("disk.after/out/adapter") {
            let [there, here] = ["disk.after", "whole"].map(|disk| folder.bytes(&format!("{disk}/out/adapter/{name}")));
            assert_eq!(there, here, "{name} of {kib} KiB");
        }
    }
    assert!(kept > 4, "the last disk alone holds four checkpoints");
    // With room again, the run goes on from what the full disk holds.
    let name = |disk: &str| format!("{disk}/out/checkpoints/step-4/optimizer.safetensors");
    fs::remove_dir_all(folder.path("disk.after/out/checkpoints/step-4")).unwrap();
    folder.train("output=disk.after/out --resume").ok();
    assert_eq!(folder.bytes(&name("disk.after")), folder.bytes(&name("whole")));
}

#[test]
fn generating_on_a_full_disk() {
    let folder = Folder::new();
    let model = fixture(SD1);
    let model = model.to_str().unwrap();
    let words = common::generate_words(model, &["x"], "--out disk/g --steps 1 --count 8 --batch 1 --size 64");
    let Some(done) = folder.on_small_disk(64, &words) else { return };
    done.error(&["disk/g/0000", "seed", ".png", "the disk is full"]);
    folder.assert_no_leftovers();
    let names = folder.names("disk.after/g");
    assert!(!names.is_empty() && names.len() < 8, "{names:?}");
    names.iter().for_each(|name| drop(common::Image::open(&folder.path(&format!("disk.after/g/{name}")))));

    let words = common::generate_words(model, &["x"], "--out g --steps 1 --size 256 --save-latents disk/l.safetensors");
    folder.on_small_disk(16, &words).unwrap().error(&["disk/l.safetensors: the disk is full"]);
    assert_eq!(folder.names("disk.after"), [""; 0]);
}

/// The log of a run on a device that takes nothing.
#[test]
fn a_log_that_cannot_be_written() {
    let folder = Folder::of_run();
    fs::create_dir(folder.path("out")).unwrap();
    symlink("/dev/full", folder.path("out/events.jsonl")).unwrap();
    folder.train("--resume").error(&["out/checkpoints: there is no checkpoint yet"]);
    fs::remove_file(folder.path("out/events.jsonl")).unwrap();
    folder.train("train.steps=1").ok();
    let before = folder.bytes("out/checkpoints");
    fs::remove_file(folder.path("out/events.jsonl")).unwrap();
    symlink("/dev/full", folder.path("out/events.jsonl")).unwrap();
    folder.train("--resume").error(&["out/events.jsonl: the disk is full"]);
    assert_eq!(folder.bytes("out/checkpoints"), before);
}

/// Said once, though the prompt comes twice in a batch and again in every step; the run goes on.
#[test]
fn a_prompt_that_is_too_long() {
    let folder = Folder::of_run();
    let prompt = "a red dog and a blue cat on a big green tree above two small houses and a black car in the rain";
    folder.write("prompts.txt", format!("{prompt}\n{prompt}\n"));
    let done = folder.train("train.steps=2");
    assert_eq!(done.code, Some(0));
    assert_eq!(done.stderr.matches("WARN").count(), 2, "the model's words, and the captioner's: {}", done.stderr);
    let parts = [
        "the 24 tokens that the captioner takes",
        "prompt longer than 16 tokens",
        "does not see its end (prompts.chunks",
        "in the rain",
    ];
    parts.iter().for_each(|part| assert!(done.stderr.contains(part), "{}", done.stderr));

    let done = folder.generate(SDXL, &[prompt], "--out g --steps 1 --count 2 --batch 1");
    assert!(done.code == Some(0) && done.stderr.lines().count() == 1, "{done:#?}");
}

#[test]
fn adapters_of_another_model() {
    let folder = Folder::of_run();
    let words = format!("--out g --lora {}", fixture("lora/kohya.safetensors").display());
    folder.generate(SD1, &["x"], &words).error(&["kohya.safetensors: ", "was the LoRA made for another base model?"]);

    folder.train("train.steps=1").ok();
    let lora = "out/checkpoints/step-1/adapter.safetensors";
    folder.edit_tensors(lora, |all| {
        let key = all.keys().next().unwrap().clone();
        all.insert(key, Tensor::zeros([2, 99], (Kind::Float, Device::Cpu)));
    });
    folder.generate(SD1, &["x"], &format!("--out g --lora {lora}")).error(&[lora, "down [2, 99]", "do not fit"]);
    folder.edit_tensors(lora, |all| drop(all.pop_first()));
    folder.generate(SD1, &["x"], &format!("--out g --lora {lora}")).error(&[lora, "lacks its down matrix"]);
    folder.write_tensors(lora, [("text_model.weight".into(), Tensor::from_slice(&[1f32]))]);
    folder.generate(SD1, &["x"], &format!("--out g --lora {lora}")).error(&[lora, "its only key is not of a LoRA"]);
    assert!(!folder.exists("g"));
}

#[test]
fn latents_of_another_shape() {
    let folder = Folder::new();
    let options = (Kind::Float, Device::Cpu);
    let error = |words: &str, parts: &[&str]| {
        folder.generate(SD1, &["x"], &format!("--out g --init-latents l.safetensors {words}")).error(parts);
    };
    let x = |shape: &[i64]| ("x_T".to_owned(), Tensor::zeros(shape, options));
    folder.write_tensors("l.safetensors", [x(&[2, 4, 8, 8])]);
    error("", &["l.safetensors: x_T [2, 4, 8, 8] does not fit 1 images of latents [4, 8, 8]"]);
    folder.write_tensors("l.safetensors", [x(&[1, 3, 8, 8])]);
    error("", &["x_T [1, 3, 8, 8] does not fit"]);
    folder.write_tensors("l.safetensors", [x(&[4, 8, 8])]);
    error("", &["x_T [4, 8, 8] is not [B, C, h, w]"]);
    folder.write_tensors("l.safetensors", [x(&[0, 4, 8, 8])]);
    error("", &["x_T [0, 4, 8, 8] is not [B, C, h, w]"]);
    folder.write_tensors("l.safetensors", [x(&[1, 4, 1, 1])]);
    error("", &["size 4x4: width and height must be"]);
    folder.write_tensors("l.safetensors", [x(&[1, 4, 8, 8])]);
    error("--size 64", &["--size 64x64, but the given latents make images of 32x32"]);
    error("--sampler ddpm", &["l.safetensors: there is no tensor z"]);
    let z = ("z".to_owned(), Tensor::zeros([3, 1, 4, 8, 8], options));
    folder.write_tensors("l.safetensors", [x(&[1, 4, 8, 8]), z]);
    error("--sampler ddpm --steps 4", &["l.safetensors: z [3, 1, 4, 8, 8] is not 4 steps"]);
    folder.write_tensors("l.safetensors", [("y".to_owned(), Tensor::zeros([1], options))]);
    error("", &["l.safetensors: there is no tensor x_T"]);
    assert!(!folder.exists("g"));
}

/// A run is never overwritten by another.
#[test]
fn folders_that_hold_a_run() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let before = folder.bytes("out");
    folder.train("train.steps=2").error(&["out already holds a run; go on with it by --resume"]);
    folder.train("train.steps=2 --resume gone").error(&["gone: no checkpoint there"]);
    folder.train("output=new --resume").error(&["new/checkpoints: there is no checkpoint yet to resume from"]);
    assert!(folder.bytes("out") == before && !folder.exists("new"));
    fs::create_dir(folder.path("mine")).unwrap();
    folder.write("mine/config.toml", "# mine");
    folder.train("output=mine").error(&["mine/config.toml exists, and no run wrote it; choose another folder"]);
    assert_eq!(folder.read("mine/config.toml"), "# mine");
    // Neither way out is the other's dead end.
    fs::remove_dir_all(folder.path("out/checkpoints")).unwrap();
    folder.train("train.steps=2").error(&["out already holds a run; it has no checkpoint to go on from: delete it"]);
}

/// What a run was started with, it keeps.
#[test]
fn resuming_another_run() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let before = folder.bytes("out");
    let error = |words: &str, parts: &[&str]| {
        folder.train(&format!("--resume train.steps=2 {words}")).error(parts);
        assert!(folder.bytes("out") == before, "the run was changed");
    };
    let step = "out/checkpoints/step-1: ";
    error("lora.rank=3", &[step, "has rank 2 and alpha 2, the configuration says 3 and 3"]);
    error("lora.alpha=7", &[step, "has rank 2 and alpha 2, the configuration says 2 and 7"]);
    error("lora.targets=[\"to_q\"]", &[step, "lora.targets"]);
    error("seed=4", &[step, "started with seed 3, the configuration says 4"]);
    error("prompts.balance=\"category\"", &["prompts.balance: ", "prompts.txt has a prompt without category: "]);
    folder.edit_text("prompts.txt", |text| text + "another\n");
    error("", &[step, "the training prompts (or prompts.balance) have changed"]);
    folder.edit_text("prompts.txt", |text| text.replace("another\n", ""));
    folder.train("--resume train.steps=2").ok();
}

#[test]
fn damaged_checkpoints() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let optimizer = "out/checkpoints/step-1/optimizer.safetensors";
    let whole = fs::read(folder.path(optimizer)).unwrap();
    folder.write(optimizer, &whole[..whole.len() - 1]);
    folder.train("--resume").error(&[optimizer, "truncated"]);
    folder.write(optimizer, &whole);
    folder.edit_tensors(optimizer, |all| drop(all.pop_first()));
    folder.train("--resume").error(&[optimizer, "mean.unet.", "is missing"]);
    folder.write(optimizer, &whole);
    folder.write("out/checkpoints/step-1/state.json", "{}");
    folder.train("--resume").error(&["step-1/state.json: missing field `step`"]);
}

/// A run that diverges in one step: nothing of it is kept or exported.
#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let before = folder.bytes("out/checkpoints/step-1/adapter.safetensors");
    folder.train("train.steps=2 optimizer.learning_rate=1e40 --resume").error(&[
        "step 2: the LoRA's weights are not finite",
        "not saved",
        "optimizer.learning_rate",
    ]);
    assert_eq!(folder.names("out/checkpoints"), ["latest", "step-1"]);
    assert_eq!(folder.bytes("out/checkpoints/step-1/adapter.safetensors"), before);
}

#[test]
fn numbers_beyond_all_use_are_refused() {
    let folder = Folder::of_run();
    folder.train("lora.rank=100000 --dry-run").error(&["lora.rank", "4096"]);
    for (words, part) in [
        ("--count 20000000", "at most 1000000"),
        ("--best-of 18446744073709551615 --captioner blip", "at most 1000000"),
        ("--seed -1", "there is no random seed"),
        ("--lora a.safetensors --lora-scale nan", "from -1000 to 1000"),
        ("--lora a.safetensors:1e39", "from -1000 to 1000"),
    ] {
        folder.generate(SD1, &["x"], &format!("--out g {words}")).usage(&[part]);
    }
    let model = fixture(SD1);
    let mut evaluate = vec!["evaluate", "--bench", "geneval", "--prompts", "p.jsonl", "--lora", "a", "--model"];
    evaluate.push(model.to_str().unwrap());
    folder.comat(&[&evaluate[..], &["--lora-scale", "1e39", "--out", "g"]].concat()).usage(&["from -1000 to 1000"]);
    folder.generate(SD1, &["x"], "--out g --processes 100000").error(&["--processes 100000", "processes at most"]);
}

#[test]
fn images_are_not_overwritten() {
    let folder = Folder::new();
    let words = "--out g --steps 1 --grid --save-latents l.safetensors";
    folder.generate(SD1, &["x"], words).ok();
    let image = "g/00000-x-seed0.png";
    folder.write(image, "mine");
    folder.generate(SD1, &["x"], "--out g --steps 1").error(&[image, "exists already", "--overwrite"]);
    folder.generate(SD1, &["y"], "--out g --steps 1 --grid").error(&["g/grid.png exists already"]);
    folder.generate(SD1, &["y"], "--out h --save-latents l.safetensors").error(&["l.safetensors exists already"]);
    assert_eq!(folder.read(image), "mine");
    assert_eq!(folder.names("g"), ["00000-x-seed0.png", "grid.png"]);
    folder.generate(SD1, &["x"], &format!("{words} --overwrite")).ok();
    // latents replace latents alone, however their file is named
    folder.write("p.txt", "a red dog\n");
    let place = folder.path("").display().to_string();
    for file in ["p.txt".to_owned(), format!("{place}/p.txt")] {
        let words = format!("--out g --steps 1 --overwrite --save-latents {file}");
        folder.generate(SD1, &["x"], &words).error(&["p.txt", "holds no latents", "choose another"]);
    }
    let words = format!("--out fresh --steps 1 --save-latents {place}/fresh/00000-x-seed0.png");
    folder.generate(SD1, &["x"], &words).error(&["that is fresh/00000-x-seed0.png"]);
    assert_eq!(folder.read("p.txt"), "a red dog\n");
    assert!(!folder.exists("fresh"));
    common::Image::open(&folder.path(image));
}

#[test]
fn tokenizers_and_encoders_apart() {
    let folder = Folder::of_run_on_copies();
    folder.edit_text("model/tokenizer/vocab.json", |text| text.replacen('{', "{\"zzz</w>\": 599, ", 1));
    refused(&folder, "", &["model: the tokenizer knows 600 tokens, the encoder beside it 599"]);
    folder.write("model/tokenizer/vocab.json", "[]");
    refused(&folder, "", &["model/tokenizer/vocab.json"]);
    fs::remove_file(folder.path("model/tokenizer/vocab.json")).unwrap();
    refused(&folder, "", &["model/tokenizer"]);
    folder.copy(SD1, "model");
    folder.edit_json("captioner/preprocessor_config.json", "image_std", json!([0.0, 0.0, 0.0]));
    refused(&folder, "", &["captioner/preprocessor_config.json: image_std must be positive"]);
    folder.copy("blip", "captioner");
    folder.write("captioner/vocab.txt", "");
    refused(&folder, "", &["captioner"]);
}
