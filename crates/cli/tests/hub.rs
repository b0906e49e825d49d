//! Models by their id, from a server on the loopback that behaves like the hub.

use crate::common::{Done, Folder, SD1, fixture};
use crate::server::{COMMIT, Server};
use std::{fs, path::Path};

/// A server that has a fixture as `owner/name`.
fn serve(name: &str, folder: &str) -> Server {
    let mut files = vec![];
    list(&fixture(folder), "", &mut files);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    Server::start(name, &files)
}

fn list(folder: &Path, within: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{within}{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => list(&entry.path(), &format!("{name}/"), files),
            false => files.push((name, fs::read(entry.path()).unwrap())),
        }
    }
}

fn online(folder: &Folder, server: &Server, words: &str) -> Done {
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = folder.command(&words);
    command
        .env("HF_ENDPOINT", &server.endpoint)
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_TOKEN")
        .env("RUST_LOG", "info");
    command.output().unwrap().into()
}

const DRAW: &str = "generate --prompt dog --steps 2 --out out";

#[test]
fn a_model_by_its_id_draws_what_the_folder_draws() {
    let (folder, server) = (Folder::new(), serve("owner/tiny", SD1));
    let done = online(&folder, &server, &format!("{DRAW} --model owner/tiny"));
    assert!(done.stderr.contains(&format!("owner/tiny: commit {COMMIT}")), "{done:?}");
    let image = folder.names("out").into_iter().find(|name| name.ends_with(".png")).unwrap();
    let drawn = pixels(&folder, &format!("out/{image}"));
    let local = format!("generate --prompt dog --steps 2 --out local --model {}", fixture(SD1).display());
    online(&folder, &server, &local);
    assert!(drawn == pixels(&folder, &format!("local/{image}")), "other pixels");
    // and again, without the network
    let offline = "generate --prompt dog --steps 2 --out again --model owner/tiny".split(' ').collect::<Vec<_>>();
    folder.comat(&offline);
    assert!(folder.exists(&format!("again/{image}")));
}

fn pixels(folder: &Folder, name: &str) -> Vec<u8> {
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(folder.path(name)).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

/// The run remembers the id, not the place in the cache.
#[test]
fn a_run_keeps_the_id() {
    let (folder, server) = (Folder::of_run(), serve("owner/blip", "blip"));
    let words = "train --config run.toml --set train.steps=1 --set captioner.path=owner/blip@main";
    let done = online(&folder, &server, words);
    assert!(folder.read("out/config.toml").contains("path = \"owner/blip@main\""), "{done:?}");
    assert!(folder.read("out/events.jsonl").contains("\"captioner\":\"owner/blip@main\""));
    assert!(folder.read("out/events.jsonl").contains(&format!("\"commits\":{{\"captioner.path\":\"{COMMIT}\"}}")));
}

#[test]
fn refusals_are_one_line() {
    let (folder, server) = (Folder::new(), serve("owner/tiny", SD1));
    let refused = |id: &str, parts: &[&str]| {
        online(&folder, &server, &format!("{DRAW} --model {id}")).error(parts);
        assert!(!folder.exists("out"));
    };
    refused("owner/tinny", &["--model: owner/tinny: is no folder here, and no model"]);
    refused("owner/tiny@v2", &["--model: owner/tiny@v2: there is no revision v2"]);
    refused("owner/tiny --variant fp61", &["no weights of variant fp61"]);
    server.now().gated = Some("hf_secret".into());
    refused("owner/tiny", &["licence", "set HF_TOKEN"]);
    let sd1 = fixture(SD1);
    refused(&format!("{} --variant fp61", sd1.display()), &["no part has weights of variant fp61"]);
    let words: Vec<&str> = "generate --prompt dog --out out --model owner/tiny".split(' ').collect();
    folder.comat(&words).error(&["is not in the cache", "HF_HUB_OFFLINE"]);
    let bad = folder.command(&words).env("HF_ENDPOINT", "mirror").output().unwrap();
    Done::from(bad).error(&["HF_ENDPOINT is mirror"]);
}

/// A single file has no tokenizer; that comes from the hub, or from a folder.
#[test]
fn single_files() {
    let (folder, sd1) = (Folder::new(), fixture(SD1));
    let server = Server::start("openai/clip-vit-large-patch14", &[]);
    let draw = format!("{DRAW} --model {}", fixture("ldm_sd1").join("model.safetensors").display());
    let done = online(&folder, &server, &draw);
    done.error(&[
        "model.safetensors is a single file",
        "--tokenizer",
        "openai/clip-vit-large-patch14",
        "no tokenizer.json",
    ]);
    let mut files = vec![];
    list(&sd1.join("tokenizer"), "", &mut files);
    server.now().files = files.into_iter().collect();
    let done = online(&folder, &server, &draw); // behind the line that says what commit the tokenizer is of
    let end = "name a folder in diffusers layout\n";
    assert!(
        done.stderr.contains("the UNet has other sizes than those of SD1.x") && done.stderr.ends_with(end),
        "{done:?}"
    );
    let tokenizer = format!("--tokenizer {}", sd1.join("tokenizer").display());
    let local = format!("{draw} {tokenizer}");
    online(&folder, &server, &local).error(&["the UNet has other sizes"]);
    let other =
        format!("{DRAW} {tokenizer} --model {}", sd1.join("unet/diffusion_pytorch_model.safetensors").display());
    online(&folder, &server, &other).error(&["looks like the weights of a UNet", "name such a file or a model folder"]);
}
