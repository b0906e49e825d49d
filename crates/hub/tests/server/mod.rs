//! A server on the loopback that behaves like the hub: a list of files, large files behind a redirect to another host,
//! ranges, refusals with the hub's codes, transfers that break.

#![allow(dead_code)] // each test program uses a part of it

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does; tests change it while it runs.
pub struct Behaviour {
    /// `OWNER/NAME` of the only repository.
    pub name: String,
    pub revisions: BTreeMap<String, String>,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files need a token with this secret.
    pub gated: Option<String>,
    /// Large files end after so many bytes of a transfer, so often.
    pub breaks: (usize, usize),
    pub ranges: bool,
    /// Large files come with other bytes.
    pub corrupt: bool,
    /// What every request is answered with.
    pub down: Option<u16>,
    /// Path, range and token of every request.
    pub log: Vec<(String, Option<String>, Option<String>)>,
}

#[derive(Clone)]
pub struct Server {
    pub endpoint: String,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    pub fn start(name: &str, files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Behaviour {
            name: name.to_owned(),
            revisions: [("main".to_owned(), COMMIT.to_owned())].into(),
            files: files.iter().map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect(),
            gated: None,
            breaks: (0, 0),
            ranges: true,
            corrupt: false,
            down: None,
            log: vec![],
        };
        let server = Self { endpoint: format!("http://127.0.0.1:{port}"), behaviour: Arc::new(Mutex::new(behaviour)) };
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = shared.clone();
                thread::spawn(move || server.answer(stream, port));
            }
        });
        server
    }

    pub fn now(&self) -> MutexGuard<'_, Behaviour> {
        self.behaviour.lock().unwrap()
    }

    /// Paths that were asked for since the last time.
    pub fn asked(&self) -> Vec<String> {
        self.now().log.drain(..).map(|(path, ..)| path).collect()
    }

    fn answer(&self, mut stream: TcpStream, port: u16) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let first = lines.next()?.ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (key, value) = line.split_once(':')?;
            headers.insert(key.to_lowercase(), value.trim().to_owned());
        }
        let range = headers.get("range").cloned();
        let token = headers.get("authorization").and_then(|t| t.strip_prefix("Bearer ")).map(str::to_owned);
        let mut now = self.now();
        now.log.push((path.clone(), range.clone(), token.clone()));
        let reply = now.reply(&path, range.as_deref(), token.as_deref(), port);
        drop(now);
        let length = reply.length.unwrap_or(reply.body.len());
        let mut head = format!("HTTP/1.1 {} Status\r\ncontent-length: {length}\r\nconnection: close\r\n", reply.status);
        for (key, value) in reply.headers {
            head += &format!("{key}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        stream.write_all(&reply.body).ok()
    }
}

#[derive(Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Announced, where it is not that of the body.
    length: Option<usize>,
}

impl Reply {
    fn refusal(status: u16, code: &str) -> Self {
        Self { status, headers: vec![("x-error-code", code.to_owned())], ..Self::default() }
    }
}

impl Behaviour {
    fn reply(&mut self, path: &str, range: Option<&str>, token: Option<&str>, port: u16) -> Reply {
        if let Some(status) = self.down {
            return Reply { status, ..Reply::default() };
        }
        if let Some(hash) = path.strip_prefix("/storage/") {
            let bytes = self.files.values().find(|bytes| sha256(bytes) == hash).unwrap().clone();
            return self.content(&bytes, range, true);
        }
        let path = path.split('?').next().unwrap_or(path);
        if let Some(rest) = path.strip_prefix("/api/models/") {
            let Some(revision) = rest.strip_prefix(&format!("{}/revision/", self.name)) else {
                return Reply::refusal(401, "RepoNotFound");
            };
            let revision = revision.replace("%2F", "/");
            let pinned = self.revisions.values().find(|commit| **commit == revision);
            let Some(commit) = self.revisions.get(&revision).or(pinned) else {
                return Reply::refusal(404, "RevisionNotFound");
            };
            let files: Vec<String> = self.files.iter().map(|(path, bytes)| sibling(path, bytes)).collect();
            let body = format!("{{\"sha\": \"{commit}\", \"siblings\": [{}], \"gated\": false}}", files.join(", "));
            return Reply { status: 200, body: body.into_bytes(), ..Reply::default() };
        }
        if let Some(secret) = &self.gated
            && token != Some(secret)
        {
            return Reply::refusal(if token.is_none() { 401 } else { 403 }, "GatedRepo");
        }
        let file = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')).map(|(_, file)| file);
        let Some(bytes) = file.and_then(|file| self.files.get(file)) else {
            return Reply::refusal(404, "EntryNotFound");
        };
        if !file.is_some_and(is_large) {
            let bytes = bytes.clone();
            return self.content(&bytes, None, false);
        }
        // The same server under another name, as the hub's storage is another host.
        let place = format!("http://localhost:{port}/storage/{}", sha256(bytes));
        Reply { status: 302, headers: vec![("location", place)], ..Reply::default() }
    }

    fn content(&mut self, bytes: &[u8], range: Option<&str>, large: bool) -> Reply {
        let start = range.filter(|_| self.ranges).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let start: usize = start.map_or(0, |start| start.parse().unwrap());
        let mut body = bytes[start..].to_vec();
        let length = Some(body.len());
        if self.corrupt && large {
            body.iter_mut().for_each(|byte| *byte ^= 1);
        }
        if large && self.breaks.1 > 0 && body.len() > self.breaks.0 {
            self.breaks.1 -= 1;
            body.truncate(self.breaks.0);
        }
        let partial = range.is_some() && self.ranges;
        let place = format!("bytes {start}-{}/{}", bytes.len().max(1) - 1, bytes.len());
        let headers = if partial { vec![("content-range", place)] } else { vec![] };
        Reply { status: if partial { 206 } else { 200 }, headers, body, length }
    }
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn sibling(path: &str, bytes: &[u8]) -> String {
    let (hash, size) = (sha256(bytes), bytes.len());
    let large = format!(", \"lfs\": {{\"sha256\": \"{hash}\", \"size\": {size}, \"pointerSize\": 134}}");
    let large = if is_large(path) { large } else { String::new() };
    format!("{{\"rfilename\": \"{path}\", \"blobId\": \"{}\", \"size\": {size}{large}}}", &hash[..40])
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
