//! `comat prepare`: a model folder for smaller images.

use crate::common;

use crate::common::{Folder, fixture};
use std::{fs, thread::sleep, time::Duration};

const UNET: &str = "ready/unet/diffusion_pytorch_model.safetensors";

/// `rest` may say otherwise.
fn words(rest: &str) -> Vec<String> {
    let model = fixture(common::SDXL).to_str().unwrap().to_owned();
    let usual = [
        ("--model", model.as_str()),
        ("--size", "16"),
        ("--prompts", "prompts.txt"),
        ("--batch", "2"),
        ("--out", "ready"),
    ];
    let usual = usual.into_iter().filter(|(key, _)| !rest.contains(key));
    let usual: String = usual.map(|(key, value)| format!("{key} {value} ")).collect();
    let all = format!("prepare --images 3 --sampling-steps 2 {usual}{rest}");
    all.split_whitespace().map(str::to_owned).collect()
}

fn prepare(folder: &Folder, rest: &str) -> common::Done {
    folder.comat(&words(rest).iter().map(String::as_str).collect::<Vec<_>>())
}

/// The denoising error has fallen; an image drawn with the new folder.
fn error_falls(folder: &Folder, rest: &str) -> Vec<u8> {
    let done = prepare(folder, rest);
    assert_eq!(done.code, Some(0), "{done:?}");
    let line = done.stdout.lines().find(|line| line.starts_with("denoising error at 16x16")).unwrap();
    let (_, numbers) = line.split_once(": ").unwrap();
    let numbers: Vec<f64> = numbers.split(" → ").map(|n| n.parse().unwrap()).collect();
    assert!(numbers[1] < 0.995 * numbers[0], "{line}");
    let _ = fs::remove_dir_all(folder.path("a"));
    folder.assert_no_leftovers();
    draw(folder, "ready", "a")
}

fn draw(folder: &Folder, model: &str, out: &str) -> Vec<u8> {
    let words = format!("generate --model {model} --prompt dog --size 16 --steps 2 --out {out}");
    folder.comat(&words.split_whitespace().collect::<Vec<_>>()).ok();
    folder.bytes(out).into_values().next().unwrap()
}

/// The whole UNet, and repeated; then a LoRA. Each new folder is a model like another, and draws otherwise than the old one.
#[test]
fn a_model_is_made_ready_for_a_smaller_size() {
    let folder = Folder::of_run();
    let old = draw(&folder, fixture(common::SDXL).to_str().unwrap(), "old");
    let tuned = "--steps 30 --batch 4 --learning-rate 0.001";
    assert!(error_falls(&folder, tuned) != old);
    assert_eq!(folder.names("ready.preparation"), ["images"]);
    assert_eq!(folder.names("ready.preparation/images"), ["00000.png", "00001.png", "00002.png"]);
    let image = common::Image::open(&folder.path("ready.preparation/images/00000.png"));
    assert_eq!((image.width, image.height), (16, 16));
    prepare(&folder, "").error(&["ready exists already"]);

    let first = folder.bytes("ready");
    for (other, again) in [("unet", tuned.to_owned()), ("on-cpu", format!("{tuned} --optimizer-on cpu"))] {
        fs::rename(folder.path("ready"), folder.path(other)).unwrap();
        assert_eq!(prepare(&folder, &again).code, Some(0));
        assert!(folder.bytes("ready") == first, "{again}");
    }

    fs::remove_dir_all(folder.path("ready")).unwrap();
    assert!(error_falls(&folder, "--tune lora --rank 4 --steps 60 --batch 4 --learning-rate 0.005") != old);
    assert_eq!(folder.names("ready.preparation"), ["images", "pytorch_lora_weights.safetensors"]);
}

#[test]
fn images_are_kept_and_not_taken_for_others() {
    let folder = Folder::of_run();
    assert_eq!(prepare(&folder, "--steps 1").code, Some(0));
    let first = folder.bytes("ready.preparation/images");
    fs::remove_dir_all(folder.path("ready")).unwrap();
    assert_eq!(prepare(&folder, "--steps 1").code, Some(0));
    assert!(folder.bytes("ready.preparation/images") == first);

    // The first is missing, and would be drawn: those of other prompts are refused before.
    fs::remove_dir_all(folder.path("ready")).unwrap();
    folder.write("prompts.txt", "a tree\na red dog\na blue cat\n");
    fs::remove_file(folder.path("ready.preparation/images/00000.png")).unwrap();
    prepare(&folder, "--steps 1").error(&["00001.png: was drawn with other settings", "--work"]);
    assert_eq!(folder.names("ready.preparation/images"), ["00001.png", "00002.png"]);
    assert!(!folder.exists("ready"));
}

/// The images stay, nothing half-written does, and the same command ends what was begun.
#[test]
fn ctrl_c_while_tuning() {
    let folder = Folder::of_run();
    let long = words("--steps 1000000");
    let mut run = folder.start(&long.iter().map(String::as_str).collect::<Vec<_>>());
    run.until("images", || folder.exists("ready.preparation/images/00002.png"));
    sleep(Duration::from_millis(1500));
    run.signal("INT");
    let done = run.wait();
    assert_eq!((done.code, done.stdout.as_str()), (Some(130), ""), "{done:?}");
    assert_eq!(done.stderr, "Stopping; images that are done are not drawn again. Ctrl-C once more stops at once.\n");
    assert!(!folder.exists("ready"));
    folder.assert_no_leftovers();
    assert_eq!(prepare(&folder, "--steps 1").code, Some(0));
    assert!(folder.exists(UNET));
}

#[test]
fn the_precision_of_the_new_weights() {
    let folder = Folder::of_run();
    assert_eq!(prepare(&folder, "--steps 1 --save-dtype bfloat16 --dtype bfloat16").code, Some(0));
    assert!(folder.tensors(UNET).values().all(|t| t.kind() == tch::Kind::BFloat16));
    draw(&folder, "ready", "a");
}

/// All of it before an image is drawn.
#[test]
fn what_cannot_be_prepared() {
    let folder = Folder::of_run();
    folder.copy(common::SDXL, "model");
    prepare(&folder, "--size 32").error(&["the model's own size is 32x32"]);
    prepare(&folder, "--size 17").error(&["size 17x17"]);
    prepare(&folder, "--learning-rate 0").error(&["--learning-rate 0"]);
    prepare(&folder, "--steps 0").usage(&["--steps 0: must be 1 or more"]);
    prepare(&folder, "--prompts gone.txt").error(&["gone.txt"]);
    prepare(&folder, "--rank 4").error(&["--rank is that of a LoRA; add --tune lora"]);
    prepare(&folder, "--tune lora --optimizer-on cpu").error(&["--optimizer-on is for --tune unet"]);
    prepare(&folder, "--model model --out model/new").error(&["lies in the model's own folder"]);
    folder.write("ready.partial", "");
    prepare(&folder, "").error(&["ready.partial: left by a run that was cut off"]);
    fs::remove_file(folder.path("ready.partial")).unwrap();
    folder.write("file", "");
    prepare(&folder, "--work file").error(&["file/images"]);
    folder.edit_json("model/scheduler/scheduler_config.json", "prediction_type", "v_prediction");
    prepare(&folder, "--model model").error(&["only models that predict the noise can be prepared"]);
    assert!(!folder.exists("ready.preparation") && !folder.exists("ready") && !folder.exists("model/new.preparation"));
}

/// A disk that has no room for the new folder is found too small before an image is drawn.
#[test]
fn no_room_for_the_new_folder() {
    let folder = Folder::of_run();
    let long = words("--out disk/ready --work work");
    let Some(done) = folder.on_small_disk(64, &long.iter().map(String::as_str).collect::<Vec<_>>()) else { return };
    done.error(&["disk/ready", "MB are needed"]);
    assert!(!folder.exists("work"));
}
