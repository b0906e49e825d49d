//! The two requests to the hub, and the meaning of its refusals.

use crate::{Error, Id, Result, Settings, Token};
use serde::Deserialize;
use std::{thread, time::Duration};
use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{Response, StatusCode},
};

/// Number of attempts for a request on which the hub fails.
const TRIES: u32 = 3;

pub(crate) struct Client {
    agent: Agent,
    pub endpoint: String,
    token: Option<Token>,
    pub pause: Duration,
}

/// The commit of a revision, and its files.
#[derive(Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub path: String,
    pub size: u64,
    /// The name of its blob: the SHA-256 of large files, git's hash of others.
    pub hash: String,
    /// Whether the hash is the SHA-256 of the content.
    pub is_sha256: bool,
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost) // a repository that was renamed, but no storage elsewhere
            .accept_encoding("identity") // sizes and ranges are those of the file
            .user_agent(concat!("comat/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(Duration::from_secs(20)))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self {
            agent: agent.into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: settings.pause,
        }
    }

    /// Where a person can read about a model, and accept its licence.
    pub fn page(&self, id: &Id) -> String {
        format!("{}/{}", self.endpoint, id.name)
    }

    /// The commit of a revision, and the files in it.
    pub fn listing(&self, id: &Id) -> Result<Listing> {
        let revision = encode(id.revision(), false);
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, id.name);
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = self.get(id, &url, None).and_then(|mut response| {
                response.body_mut().with_config().limit(64 << 20).read_to_string().map_err(|e| self.unreachable(id, &e))
            });
            match answer {
                Ok(text) => return listing(&text).map_err(|what| Error::hub(id, format!("{}: {what}", self.endpoint))),
                Err(Error::Unreachable { .. }) if tries < TRIES => thread::sleep(self.pause * (1 << tries) / 2),
                Err(error) => return Err(error),
            }
        }
    }

    /// A file of a commit, starting at byte `from`.
    pub fn file(&self, id: &Id, commit: &str, path: &str, from: u64) -> Result<Response<Body>> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, id.name, encode(path, true));
        self.get(id, &url, (from > 0).then(|| format!("bytes={from}-")))
    }

    fn get(&self, id: &Id, url: &str, range: Option<String>) -> Result<Response<Body>> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.secret));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let response = request.call().map_err(|e| self.unreachable(id, &e))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let message = match status {
                StatusCode::TOO_MANY_REQUESTS => {
                    format!("{} has had too many requests; wait some minutes", self.endpoint)
                }
                _ => format!("{} answers {status}; try again later", self.endpoint),
            };
            return Err(Error::Unreachable { model: id.to_string(), message });
        }
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        Err(Error::hub(id, self.refusal(id, status, code)))
    }

    /// The hub answers 401 to what is secret and to what does not exist alike, unless its own code tells more.
    fn refusal(&self, id: &Id, status: StatusCode, code: &str) -> String {
        let page = self.page(id);
        let tokens = format!("{}/settings/tokens", self.endpoint);
        match (code, status.as_u16(), &self.token) {
            ("GatedRepo", _, None) => format!(
                "its authors ask for a licence to be accepted: accept it at {page}, then set HF_TOKEN to a token from {tokens}"
            ),
            ("GatedRepo", _, Some(token)) => format!(
                "its authors ask for a licence to be accepted, and the owner of the token (from {}) has not, or the token may not read such models: accept it at {page}, look at {tokens}",
                token.from
            ),
            ("RevisionNotFound", ..) => {
                format!("there is no revision {}; {page}/tree/main shows those that there are", id.revision())
            }
            ("EntryNotFound", ..) => format!("a file has gone from {page}; run the command again"),
            ("RepoNotFound", _, None) | ("", 401, None) => format!(
                "is no folder here, and no model that everyone may read at {}: look at the name, or, if it is private, set HF_TOKEN",
                self.endpoint
            ),
            ("", 401, Some(token)) => {
                format!("{} does not accept the token from {}: make a new one at {tokens}", self.endpoint, token.from)
            }
            ("RepoNotFound", _, Some(token)) | ("", 404, Some(token)) => format!(
                "is no folder here, and no model at {} that the token from {} may read: look at the name",
                self.endpoint, token.from
            ),
            ("", 404, None) => format!("is no folder here, and no model at {}: look at the name", self.endpoint),
            ("", 403, _) => format!("{page} may not be read from here (403 Forbidden); look there for why"),
            _ => format!("{} answers {status} {code}; look at {page}", self.endpoint),
        }
    }

    pub fn unreachable(&self, id: &Id, error: &ureq::Error) -> Error {
        let message = format!(
            "is no folder here, and {} cannot be reached ({}); look at the network and at HF_ENDPOINT",
            self.endpoint,
            reason(error)
        );
        Error::Unreachable { model: id.to_string(), message }
    }
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "there is no such host".into(),
        ureq::Error::Io(e) => e.to_string(),
        error => error.to_string(),
    }
}

/// Percent-encodes a part of an address; in a path, slashes are kept.
fn encode(text: &str, path: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (path && byte == b'/') {
            encoded.push(byte.into());
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// Reads the hub's list of a revision's files, and refuses names that would leave the cache.
fn listing(text: &str) -> Result<Listing, String> {
    #[derive(Deserialize)]
    struct Answer {
        sha: String,
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sibling {
        rfilename: String,
        size: Option<u64>,
        blob_id: Option<String>,
        lfs: Option<Lfs>,
    }
    #[derive(Deserialize)]
    struct Lfs {
        sha256: String,
        size: u64,
    }
    let answer: Answer = serde_json::from_str(text).map_err(|e| format!("its answer cannot be read: {e}"))?;
    if !crate::id::is_commit(&answer.sha) {
        return Err(format!("its answer names the commit {:?}", answer.sha));
    }
    let file = |file: Sibling| {
        let (path, is_sha256) = (file.rfilename, file.lfs.is_some());
        let known = file.lfs.map(|lfs| (lfs.sha256, lfs.size)).or_else(|| file.blob_id.zip(file.size));
        let (hash, size) = known.ok_or_else(|| format!("its answer has no size or hash for {path:?}"))?;
        let inside = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains(['\\', '\0']);
        let is_hash = hash.len() == if is_sha256 { 64 } else { 40 } && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !inside || !is_hash {
            return Err(format!("its answer has a file {path:?} with the hash {hash:?}"));
        }
        Ok(RemoteFile { path, size, hash, is_sha256 })
    };
    Ok(Listing { commit: answer.sha, files: answer.siblings.into_iter().map(file).collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_cache_are_refused() {
        let (commit, hash) = ("a".repeat(40), "b".repeat(40));
        let answer = |path: &str, hash: &str| {
            let file = serde_json::json!({ "rfilename": path, "size": 3, "blobId": hash });
            listing(&serde_json::json!({ "sha": commit, "siblings": [file] }).to_string())
        };
        assert_eq!(answer("unet/config.json", &hash).unwrap().files[0].size, 3);
        for path in ["../x", "/etc/x", "a/../../x", "a//b", "a\\b", ""] {
            assert!(answer(path, &hash).unwrap_err().contains("has a file"), "{path:?}");
        }
        assert!(answer("x", "../../x").is_err());
        assert!(listing("<html>").unwrap_err().contains("cannot be read"));
        assert!(listing(r#"{"sha": "../..", "siblings": []}"#).is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü?.json", true), "a%20b/%C3%BC%3F.json");
    }
}
