//! A network behind an OpenAI-compatible endpoint (`POST URL/chat/completions` with an image in the message).
//!
//! Every answer is cached in a file, by model, question and image, so nothing is asked twice.

mod cache;

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use cache::Cache;
use ranks::interrupt::{Interrupt, Interrupted};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Maximum tokens of an answer.
const MOST_TOKENS: u64 = 64;

/// Address and settings of the endpoint.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Base URL, including the version: `http://localhost:8000/v1`.
    pub url: String,
    pub model: String,
    /// API key, sent as a bearer token.
    pub key: Option<String>,
    /// Timeout of one whole request.
    pub timeout: Duration,
    /// Number of further tries after the first one fails.
    pub retries: u32,
    /// Questions sent at once.
    pub parallel: usize,
    /// The file that caches the answers.
    pub cache: PathBuf,
}

pub struct Endpoint {
    agent: ureq::Agent,
    settings: Settings,
    cache: Mutex<Cache>,
    interrupt: Interrupt,
}

/// Why a try failed.
enum Failure {
    /// A temporary failure; `after`: time to wait before the next try, if the server gave one.
    Passing {
        why: String,
        after: Option<Duration>,
    },
    Lasting(String),
}

impl Endpoint {
    /// # Errors
    /// A URL that does not begin with `http://` or `https://`; a file of answers that cannot be read or written.
    pub fn new(settings: Settings, interrupt: &Interrupt) -> Result<Self> {
        if !(settings.url.starts_with("http://") || settings.url.starts_with("https://")) {
            bail!("--endpoint {}: it must begin with http:// or https://", settings.url);
        }
        let config = ureq::Agent::config_builder().timeout_global(Some(settings.timeout)).http_status_as_error(false);
        let cache = Mutex::new(Cache::open(&settings.cache)?);
        Ok(Self { agent: config.build().into(), settings, cache, interrupt: interrupt.clone() })
    }

    /// Checks that the server answers, before hours are spent on drawing images. Requests the list of models; not every
    /// server has it, so a missing list is no error.
    ///
    /// # Errors
    /// No connection; a key that is rejected.
    pub fn check(&self) -> Result<()> {
        let url = format!("{}/models", self.settings.url.trim_end_matches('/'));
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.settings.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let response = request.call().with_context(|| format!("--endpoint {}: nobody answers", self.settings.url))?;
        match response.status().as_u16() {
            status @ (401 | 403) => bail!("{url}: authentication failed (status {status}); set COMAT_ENDPOINT_KEY"),
            _ => Ok(()),
        }
    }

    /// Returns an answer to each question about an image (the bytes of its file); several questions are sent at once.
    ///
    /// # Errors
    /// The first question without an answer after all tries; an interruption. Answers received before are kept.
    pub fn ask_all(&self, image: &[u8], questions: &[String]) -> Result<Vec<String>> {
        let ask = |question: &String| self.ask(image, question);
        let mut answers = vec![];
        for some in questions.chunks(self.settings.parallel.max(1)) {
            let asked: Vec<Result<String>> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|question| scope.spawn(move || ask(question))).collect();
                threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a request broke off")))).collect()
            });
            answers.extend(asked.into_iter().collect::<Result<Vec<_>>>()?);
        }
        Ok(answers)
    }

    fn ask(&self, image: &[u8], question: &str) -> Result<String> {
        let key = cache::key(&self.settings.model, question, image);
        if let Some(answer) = self.cache().get(&key) {
            return Ok(answer);
        }
        let body = self.body(image, question);
        let (url, mut wait) = (self.address(), Duration::from_millis(500));
        let mut tries = 0;
        let answer = loop {
            self.interrupt.check()?;
            match self.send(&url, &body) {
                Ok(answer) => break answer,
                Err(Failure::Lasting(why)) => bail!("{url}: {why}"),
                Err(Failure::Passing { why, .. }) if tries >= self.settings.retries => {
                    bail!("{url}: {why}, {} times; what was answered is kept, the same command goes on", tries + 1)
                }
                Err(Failure::Passing { why, after }) => {
                    let pause = after.unwrap_or(wait).min(LONGEST_WAIT);
                    tracing::warn!("{url}: {why}; trying again in {:.1} s", pause.as_secs_f64());
                    self.pause(pause)?;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    tries += 1;
                }
            }
        };
        self.cache().put(key, &answer)?;
        Ok(answer)
    }

    /// Waits this long; an interruption ends the wait.
    fn pause(&self, length: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + length;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            self.interrupt.check()?;
            sleep(rest.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn address(&self) -> String {
        format!("{}/chat/completions", self.settings.url.trim_end_matches('/'))
    }

    fn body(&self, image: &[u8], question: &str) -> String {
        let kind = if image.starts_with(b"\xff\xd8") {
            "jpeg"
        } else if image.starts_with(b"RIFF") {
            "webp"
        } else {
            "png"
        };
        let url = format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(image));
        let content = json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]);
        json!({
            "model": self.settings.model,
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
            "messages": [{"role": "user", "content": content}],
        })
        .to_string()
    }

    fn send(&self, url: &str, body: &str) -> Result<String, Failure> {
        let mut request = self.agent.post(url).content_type("application/json");
        if let Some(key) = &self.settings.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let began = Instant::now();
        let passing = |e: ureq::Error| {
            let seconds = began.elapsed().as_secs_f64();
            let why = if matches!(e, ureq::Error::Timeout(_)) {
                format!("no answer in {seconds:.0} s")
            } else {
                e.to_string()
            };
            Failure::Passing { why, after: None }
        };
        let mut response = request.send(body).map_err(passing)?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let text = response.body_mut().read_to_string().map_err(passing)?;
        match status {
            200..300 => content(&text).filter(|answer| !answer.is_empty()).ok_or_else(|| {
                Failure::Lasting(format!("the answer has no text in choices[0].message.content: {}", beginning(&text)))
            }),
            408 | 429 | 500.. => Err(Failure::Passing {
                why: format!("status {status} ({})", beginning(&text)),
                after: after.map(Duration::from_secs),
            }),
            401 | 403 => Err(Failure::Lasting(format!(
                "authentication failed (status {status}: {}); set COMAT_ENDPOINT_KEY",
                beginning(&text)
            ))),
            _ => Err(Failure::Lasting(format!("status {status} ({})", beginning(&text)))),
        }
    }
}

/// The text of a completion (a JSON response).
fn content(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    Some(value.pointer("/choices/0/message/content")?.as_str()?.trim().to_owned())
}

/// The beginning of an answer, at most 120 characters, on one line for an error message.
fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests;
