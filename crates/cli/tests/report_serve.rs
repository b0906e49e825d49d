//! `comat report --serve`: a page that follows a run.

use crate::common::{Folder, signal};
use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
};

const STEP: &str = "{\"event\":\"step\",\"step\":STEP,\"caption_loss\":2.5,\"grad_norm\":0.5,\"seconds\":1.0}\n";

/// A run that has made a step.
fn run() -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("run")).unwrap();
    folder.write("run/config.toml", "output = \"run\"\n[train]\nsteps = 60\n");
    folder.write("run/events.jsonl", "{\"event\":\"start\",\"step\":0,\"trainable\":9}\n".to_owned() + &step(1));
    folder
}

fn step(number: u64) -> String {
    STEP.replace("STEP", &number.to_string())
}

struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(folder: &Folder) -> Self {
        let mut command = folder.command(&["report", "run", "--serve", "--port", "0"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        Self { child, address }
    }

    /// Status line with headers, and body.
    fn ask(&self, method: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn get(&self, path: &str) -> String {
        let (head, body) = self.ask("GET", path);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn the_page_follows_the_run() {
    let folder = run();
    let mut served = Served::start(&folder);
    let (page, version) = (served.get("/"), served.get("/version"));
    assert!(page.contains("this is how far it is") && page.contains(&format!("let shown = \"{version}\"")), "{page}");
    assert_eq!((served.get("/?x"), served.get("/version")), (page.clone(), version.clone()));

    let append = |text: &str| {
        let mut log = OpenOptions::new().append(true).open(folder.path("run/events.jsonl")).unwrap();
        log.write_all(text.as_bytes()).unwrap();
    };
    append(&step(2));
    append("{\"event\":\"finished\",\"step\":2}\n");
    let (later, newer) = (served.get("/"), served.get("/version"));
    assert!(later != page && newer != version);
    assert!(later.contains("finished") && !later.contains("this is how far it is"));

    let status = |method: &str, path: &str| served.ask(method, path).0.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(
        [status("GET", "/other"), status("GET", "/run/config.toml"), status("POST", "/")],
        ["404", "404", "405"]
    );
    fs::remove_file(folder.path("run/events.jsonl")).unwrap();
    let (head, body) = served.ask("GET", "/");
    assert!(head.starts_with("HTTP/1.1 500") && body.contains("run is neither a training run"), "{head} {body}");

    signal(served.child.id(), "INT");
    assert_eq!(served.child.wait().unwrap().code(), Some(0));
    assert!(!folder.exists("report.html"));
}

#[test]
fn what_cannot_be_served() {
    let folder = run();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    folder
        .comat(&["report", "run", "--serve", "--port", &port])
        .error(&[&format!("port {port} is in use"), "--port N"]);
    folder.comat(&["report", "no", "--serve"]).error(&["no is no folder"]);
    folder.comat(&["report", "run", "--serve", "--out", "x.html"]).usage(&["--serve", "--out"]);
    folder.comat(&["report", "run", "--port", "1"]).usage(&["--serve"]);
}
