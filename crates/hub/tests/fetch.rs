//! Fetching from a server on the loopback that behaves like the hub.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

mod server;

use hub::{Error, Fetched, Hub, Id, Layout, Progress, Settings, Silent, Token};
use server::{COMMIT, Server, sha256};
use std::{cell::RefCell, fs, path::Path, time::Duration};
use tempfile::TempDir;

const NETWORK: Layout = Layout::Network { tokenizer: false };
const LARGE: &str = "model.safetensors";

struct Here {
    server: Server,
    cache: TempDir,
    settings: Settings,
}

impl Here {
    fn new() -> Self {
        let weights: Vec<u8> = (0..600_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let files: [(&str, &[u8]); 4] =
            [("README.md", b"x"), ("config.json", b"{}"), (LARGE, &weights), ("pytorch_model.bin", b"pickle")];
        let server = Server::start("owner/name", &files);
        let cache = tempfile::tempdir().unwrap();
        let settings = Settings {
            endpoint: server.endpoint.clone(),
            cache: cache.path().to_owned(),
            token: None,
            offline: false,
            pause: Duration::ZERO,
        };
        Self { server, cache, settings }
    }

    fn fetch(&self, id: &str) -> hub::Result<Fetched> {
        Hub::new(self.settings.clone()).fetch(&Id::parse(id).unwrap(), NETWORK, &Silent)
    }

    /// One line with all these parts.
    #[track_caller]
    fn refused(&self, id: &str, parts: &[&str]) -> String {
        let error = self.fetch(id).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
        error
    }

    fn offline(&mut self, offline: bool) -> &mut Self {
        self.settings.offline = offline;
        self
    }

    fn token(&mut self, secret: &str) {
        self.settings.token = Some(Token { secret: secret.into(), from: "HF_TOKEN".into() });
    }

    fn weights(&self) -> Vec<u8> {
        self.server.now().files[LARGE].clone()
    }

    fn blob(&self, hash: &str) -> std::path::PathBuf {
        self.cache.path().join("models--owner--name/blobs").join(hash)
    }
}

#[test]
fn only_what_is_needed_comes_into_the_ordinary_layout() {
    let here = Here::new();
    let fetched = here.fetch("owner/name").unwrap();
    let repository = here.cache.path().join("models--owner--name");
    assert_eq!(fetched, Fetched { folder: repository.join("snapshots").join(COMMIT), commit: COMMIT.into() });
    assert_eq!(fs::read(fetched.folder.join(LARGE)).unwrap(), here.weights());
    let mut names: Vec<_> = fs::read_dir(&fetched.folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", LARGE]);
    let hash = sha256(&here.weights());
    assert_eq!(fs::read_link(fetched.folder.join(LARGE)).unwrap(), Path::new("../../blobs").join(&hash));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    here.server.asked();
    here.fetch("owner/name").unwrap();
    assert_eq!(here.server.asked().len(), 1, "the second time, the hub is only asked what main stands for");
}

#[test]
fn a_commit_that_is_whole_needs_no_network() {
    let mut here = Here::new();
    let pinned = format!("owner/name@{COMMIT}");
    here.fetch(&pinned).unwrap();
    here.server.asked();
    assert_eq!(here.fetch(&pinned).unwrap().commit, COMMIT);
    assert_eq!(here.server.asked(), [""; 0]);
    assert!(!here.cache.path().join("models--owner--name/refs").exists());
    here.offline(true).fetch(&pinned).unwrap();
}

#[test]
fn offline_takes_the_cache_alone() {
    let mut here = Here::new();
    here.offline(true).refused(
        "owner/name",
        &["owner/name: is no folder here, its revision main is not in the cache", "HF_HUB_OFFLINE"],
    );
    let fetched = here.offline(false).fetch("owner/name").unwrap();
    here.server.asked();
    assert_eq!(here.offline(true).fetch("owner/name").unwrap(), fetched);
    assert_eq!(here.server.asked(), [""; 0]);
    fs::remove_file(here.blob(&sha256(&here.weights()))).unwrap();
    here.refused("owner/name", &["model.safetensors is missing in", COMMIT, "HF_HUB_OFFLINE"]);
}

#[test]
fn without_a_network_the_last_known_commit_is_used() {
    let here = Here::new();
    here.server.now().down = Some(503);
    here.refused("owner/name", &["owner/name: http://127.0.0.1", "answers 503", "try again later"]);
    here.server.now().down = None;
    let fetched = here.fetch("owner/name").unwrap();
    here.server.now().down = Some(503);
    assert_eq!(here.fetch("owner/name").unwrap(), fetched);
    let mut gone = here;
    gone.settings.endpoint = "http://127.0.0.1:9".into(); // where nobody listens
    assert_eq!(gone.fetch("owner/name").unwrap(), fetched);
    gone.refused(
        "owner/other",
        &["owner/other: is no folder here, and http://127.0.0.1:9 cannot be reached", "HF_ENDPOINT"],
    );
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let here = Here::new();
    here.server.now().breaks = (700_000, 2);
    let fetched = here.fetch("owner/name").unwrap();
    assert_eq!(fs::read(fetched.folder.join(LARGE)).unwrap(), here.weights());
    let ranges: Vec<_> = here.server.now().log.iter().filter_map(|(_, range, _)| range.clone()).collect();
    assert!(
        ranges.contains(&"bytes=700000-".to_owned()) && ranges.contains(&"bytes=1400000-".to_owned()),
        "{ranges:?}"
    );
}

#[test]
fn half_a_download_stays_for_the_next_run() {
    let here = Here::new();
    here.server.now().breaks = (0, usize::MAX);
    let hash = sha256(&here.weights());
    let partial = here.blob(&format!("{hash}.incomplete"));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &here.weights()[..1_000_000]).unwrap();
    let error =
        here.refused("owner/name", &["model.safetensors: the transfer broke off after 1000000 of 2400000 bytes"]);
    assert!(error.ends_with("run the command again, it goes on from there"), "{error}");
    assert!(!here.cache.path().join("models--owner--name/refs/main").exists());
    here.server.now().breaks = (0, 0);
    here.server.asked();
    here.fetch("owner/name").unwrap();
    assert!(here.blob(&hash).exists() && !partial.exists());
    // Without ranges the whole file comes once more, and is the same.
    fs::rename(here.blob(&hash), &partial).unwrap();
    fs::write(&partial, b"the beginning of something else").unwrap();
    here.server.now().ranges = false;
    let fetched = here.fetch("owner/name").unwrap();
    assert_eq!(fs::read(fetched.folder.join(LARGE)).unwrap(), here.weights());
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_thrown_away() {
    let here = Here::new();
    here.server.now().corrupt = true;
    here.refused("owner/name", &["model.safetensors came with the checksum", "run the command again"]);
    let blobs = fs::read_dir(here.cache.path().join("models--owner--name/blobs")).unwrap();
    assert_eq!(blobs.count(), 1, "config.json alone");
    here.server.now().corrupt = false;
    here.fetch("owner/name").unwrap();
}

#[test]
fn licences_and_tokens() {
    let mut here = Here::new();
    here.server.now().gated = Some("hf_right".into());
    let page = format!("{}/owner/name", here.server.endpoint);
    here.refused("owner/name", &["owner/name: ", "licence", &page, "set HF_TOKEN"]);
    here.token("hf_wrong");
    let error = here.refused("owner/name", &["licence", &page, "from HF_TOKEN"]);
    assert!(!error.contains("hf_wrong"), "{error}");
    here.token("hf_right");
    here.server.asked();
    here.fetch("owner/name").unwrap();
    let now = here.server.now();
    let told = |start: &str| now.log.iter().filter(|(path, ..)| path.starts_with(start)).all(|(.., t)| t.is_some());
    assert!(told("/api/") && told("/owner/"));
    let storage: Vec<_> = now.log.iter().filter(|(path, ..)| path.starts_with("/storage/")).collect();
    assert!(storage.iter().all(|(.., token)| token.is_none()) && storage.len() == 1, "the token is for the hub alone");
}

#[test]
fn what_does_not_exist() {
    let mut here = Here::new();
    here.refused("owner/name@v9", &["owner/name@v9: there is no revision v9", "/owner/name/tree/main"]);
    here.refused("owner/nmae", &["owner/nmae: is no folder here, and no model", "look at the name"]);
    here.token("hf_x");
    here.refused("owner/nmae", &["the token from HF_TOKEN may read", "look at the name"]);
    here.server.now().files.remove(LARGE);
    here.refused("owner/name", &["has pytorch_model.bin but no model.safetensors", "pickles"]);
    here.server.now().files.remove("config.json");
    here.refused("owner/name", &["has no config.json"]);
}

#[test]
fn revisions_with_slashes_and_moving_branches() {
    let here = Here::new();
    let newer = "f".repeat(40);
    here.server.now().revisions.insert("refs/pr/1".into(), newer.clone());
    assert_eq!(here.fetch("owner/name@refs/pr/1").unwrap().commit, newer);
    assert_eq!(here.fetch("owner/name").unwrap().commit, COMMIT);
    here.server.now().revisions.insert("main".into(), newer.clone());
    here.server.asked();
    assert_eq!(here.fetch("owner/name").unwrap().commit, newer);
    assert_eq!(here.server.asked().len(), 1, "both commits have the same files");
}

#[test]
fn a_branch_stays_at_its_whole_commit_until_the_next_one_is() {
    let mut here = Here::new();
    here.fetch("owner/name").unwrap();
    {
        let mut now = here.server.now();
        now.revisions.insert("main".into(), "e".repeat(40));
        now.files.insert(LARGE.into(), vec![7; 5000]);
        now.breaks = (0, usize::MAX);
    }
    assert!(matches!(here.fetch("owner/name"), Err(Error::Unreachable { .. })));
    assert_eq!(here.offline(true).fetch("owner/name").unwrap().commit, COMMIT);
}

/// One that is shared by users, or mounted read-only: what is whole in it is used, and nothing need be written.
#[test]
fn a_cache_that_cannot_be_written_to() {
    let here = Here::new();
    let fetched = here.fetch("owner/name").unwrap();
    let repository = here.cache.path().join("models--owner--name");
    // no folder can be made, or file renamed, where a file is in the way: that stops even an administrator
    let closed = |path: std::path::PathBuf| {
        fs::remove_dir_all(&path).unwrap();
        fs::write(path, "").unwrap();
    };
    closed(here.cache.path().join(".locks"));
    fs::remove_file(fetched.folder.join("config.json")).unwrap();
    assert_eq!(here.fetch("owner/name").unwrap(), fetched, "without a lock");
    assert!(fetched.folder.join("config.json").exists());
    closed(repository.join("refs"));
    assert_eq!(here.fetch("owner/name").unwrap(), fetched, "nothing is missing");
    fs::remove_file(fetched.folder.join(LARGE)).unwrap();
    closed(repository.join("blobs"));
    here.refused("owner/name", &["owner/name: cannot be put into the cache", "HF_HUB_CACHE"]);
}

#[test]
fn progress_says_what_is_there() {
    #[derive(Default)]
    struct Seen(RefCell<Vec<String>>);
    impl Progress for Seen {
        fn file(&self, name: &str, size: u64) {
            self.0.borrow_mut().push(format!("{name} {size}"));
        }
        fn at(&self, bytes: u64) {
            self.0.borrow_mut().push(bytes.to_string());
        }
        fn end(&self) {
            self.0.borrow_mut().push("end".into());
        }
    }
    let here = Here::new();
    let seen = Seen::default();
    Hub::new(here.settings.clone()).fetch(&Id::parse("owner/name").unwrap(), NETWORK, &seen).unwrap();
    let seen = seen.0.into_inner();
    assert_eq!(seen[..4], ["owner/name config.json (1/2) 2", "0", "2", "end"]);
    assert_eq!(seen[4], "owner/name model.safetensors (2/2) 2400000");
    assert_eq!(seen[seen.len() - 2..], ["2400000", "end"]);
}
