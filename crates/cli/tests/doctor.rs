//! `comat doctor`, and its check of a device.

mod common;

use common::Folder;
use std::path::Path;

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
        "twice the same iteration ",
        "matrix product, TFLOP/s ",
    ] {
        assert!(done.stdout.lines().any(|l| l.starts_with(line)), "{line}: {}", done.stdout);
    }
    assert!(done.stdout.trim_end().ends_with("checks passed") && !done.stdout.contains("FAILED"), "{}", done.stdout);
}

#[test]
fn what_the_check_needs_is_named() {
    let folder = Folder::new();
    folder.comat(&["doctor", "--check", "--world", "w"]).error(&["w: no folder sd in it", "--world"]);
    folder.comat(&["doctor", "--world", "here"]).usage(&["--check"]);
    folder.comat(&["doctor", "--check", "--world", "w", "--device", "cuda:99"]).error(&["w: no folder sd"]);
}
