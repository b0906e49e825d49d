//! Serves the page to a browser on this machine, and makes it again whenever a log has changed.

use super::{Request, made, page::Page};
use anyhow::{Result, anyhow};
use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};
use tiny_http::{Header, Method, Response, Server};

/// How often the server checks whether it should stop.
const TICK: Duration = Duration::from_millis(200);

/// Answers on 127.0.0.1 until `stop` returns true: `/` is the page, `/version` a text that changes when the page does.
/// `ready` gets the address. If `port` is 0, any free port is used.
///
/// # Errors
/// No page can be made of the folders, or the port cannot be used.
pub fn serve(
    request: &Request,
    port: u16,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
    stop: impl Fn() -> bool,
) -> Result<()> {
    let mut live = Live { request, version: String::new(), html: String::new() };
    live.renew()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("port {port} is in use by another program; choose another one by --port N (0: any)")
        }
        _ => anyhow!("port {port} cannot be used: {e}; choose another one by --port N (0: any)"),
    })?;
    let address = listener.local_addr()?;
    let server = Server::from_listener(listener, None).map_err(|e| anyhow!("port {port}: {e}"))?;
    ready(address)?;
    while !stop() {
        let Some(asked) = server.recv_timeout(TICK)? else { continue };
        let (code, kind, text) = live.answer(asked.method(), asked.url());
        let headers = [("Content-Type", kind), ("Cache-Control", "no-store")];
        let mut response = Response::from_string(text).with_status_code(code);
        for header in headers.iter().filter_map(|(name, value)| Header::from_bytes(*name, *value).ok()) {
            response.add_header(header);
        }
        if let Err(e) = asked.respond(response) {
            tracing::debug!("a browser did not wait for its answer: {e}");
        }
    }
    Ok(())
}

const TEXT: &str = "text/plain; charset=utf-8";

struct Live<'a> {
    request: &'a Request,
    version: String,
    html: String,
}

impl Live<'_> {
    /// The answer to a request: status, content type and body.
    fn answer(&mut self, method: &Method, url: &str) -> (u16, &'static str, String) {
        if !matches!(method, Method::Get | Method::Head) {
            return (405, TEXT, "only GET is answered here\n".into());
        }
        match url.split('?').next() {
            Some("/") => match self.renew() {
                Ok(()) => (200, "text/html; charset=utf-8", self.html.clone()),
                Err(e) => (500, TEXT, format!("{e:#}\n")),
            },
            Some("/version") => (200, TEXT, version(self.request)),
            _ => (404, TEXT, "there is no such page; the report is at /\n".into()),
        }
    }

    /// Makes the page again if a log has changed.
    fn renew(&mut self) -> Result<()> {
        let version = version(self.request);
        if version != self.version {
            let (title, body, _) = made(self.request)?;
            let script = format!("let shown = \"{version}\";\n{}", include_str!("live.js"));
            self.html = Page { title: &title, body, style: "", script: &script }.html();
            self.version = version;
        }
        Ok(())
    }
}

/// A hash that changes when one of the logs in the folders or their direct subfolders changes.
fn version(request: &Request) -> String {
    let mut hasher = DefaultHasher::new();
    for folder in request.folders.iter().chain(&request.base) {
        let below = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut folders: Vec<_> = below.filter(|path| path.is_dir()).collect();
        folders.sort();
        for folder in [folder].into_iter().chain(&folders) {
            for name in ["events.jsonl", "scores.jsonl"] {
                stamp(&folder.join(name)).ok().hash(&mut hasher);
            }
        }
    }
    format!("{:016x}", hasher.finish())
}

fn stamp(path: &Path) -> io::Result<(u64, std::time::SystemTime)> {
    let file = fs::metadata(path)?;
    Ok((file.len(), file.modified()?))
}
