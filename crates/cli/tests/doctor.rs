//! `comat doctor`, and its check of a device.

use crate::common::Folder;
use std::{path::Path, process::Command};
use tch::Kind;

#[test]
fn a_check_passes_here() {
    let folder = Folder::new();
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world");
    let done = folder.comat(&["doctor", "--check", "--world", world.to_str().unwrap()]).ok();
    println!("{}", done.stdout);
    for line in [
        "libtorch ",
        "float32: dL/d adapter ",
        "float16: caption loss ",
        "bfloat16: latents ",
        "bfloat16: twice the same ",
        "matrix product, TFLOP/s ",
    ] {
        assert!(done.stdout.lines().any(|l| l.starts_with(line)), "{line}: {}", done.stdout);
    }
    assert!(
        done.stdout.trim_end().ends_with("can train in float32, float16 and bfloat16")
            && !done.stdout.contains("FAILED"),
        "{}",
        done.stdout
    );
}

/// The last bias of the UNet is more than float16 can hold, and no trouble for the other precisions.
#[test]
fn a_check_that_fails_says_what_and_ends_with_1() {
    let folder = Folder::new();
    for part in ["sd", "blip"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world").join(part);
        std::fs::create_dir_all(folder.path("world")).unwrap();
        let copied = Command::new("cp").arg("-r").arg(&from).arg(folder.path("world")).status().unwrap();
        assert!(copied.success());
    }
    folder.edit_tensors("world/sd/unet/diffusion_pytorch_model.safetensors", |tensors| {
        let bias = tensors.get_mut("conv_out.bias").unwrap();
        *bias = (bias.to_kind(Kind::Float) + 1e5).to_kind(Kind::Float);
    });
    let done = folder.comat(&["doctor", "--check", "--world", "world"]);
    let done = done.error(&["checks of cpu failed", "float16: an iteration"]);
    let failed = |line: &str| done.stdout.lines().any(|l| l.starts_with(line) && l.ends_with("FAILED"));
    assert!(failed("float16: an iteration") && !failed("float32: latents"), "{}", done.stdout);
}

#[test]
fn what_the_check_needs_is_named() {
    let folder = Folder::new();
    folder.comat(&["doctor", "--check", "--world", "w"]).error(&["w: no folder sd in it", "--world"]);
    folder.comat(&["doctor", "--world", "here"]).usage(&["--check"]);
    folder.comat(&["doctor", "--check", "--world", "w", "--device", "cuda:99"]).error(&["w: no folder sd"]);
}
