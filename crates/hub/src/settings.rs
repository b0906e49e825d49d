//! Where the hub and the cache are: the environment variables that huggingface_hub has.
//!
//! Upstream: <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.

use crate::{Error, Result};
use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://…`, without a slash at the end.
    pub endpoint: String,
    /// The folder that has the `models--OWNER--NAME` in it.
    pub cache: PathBuf,
    pub token: Option<Token>,
    /// Use the cache alone.
    pub offline: bool,
    /// Before the first of several tries is made again; then twice as long, and so on.
    pub pause: Duration,
}

/// What tells the hub who asks.
#[derive(Clone, PartialEq)]
pub struct Token {
    pub secret: String,
    /// Where it was found, for errors.
    pub from: String,
}

/// Without the secret: what is printed may end up in a log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Token from {}", self.from)
    }
}

impl Settings {
    /// `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and their older names.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| env::var_os(name))
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().trim().to_owned());
        let user = set("HOME").map(PathBuf::from);
        let folder = |name: &str| set(name).map(|value| from_user(PathBuf::from(value), user.as_deref()));
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user.as_ref().map(|user| user.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| Error::Setting("neither HF_HOME nor HOME is set: there is no place for models".into()))?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            return Err(Error::Setting(format!("HF_ENDPOINT is {endpoint}: it must start with https:// or http://")));
        }
        let yes = |name: &str| {
            text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
        };
        let token_file = folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .iter()
            .find_map(|name| text(name).filter(|t| !t.is_empty()).map(|secret| Token { secret, from: (*name).into() }))
            .or_else(|| token_file.and_then(|file| read_token(&file)));
        if let Some(token) = token.as_ref().filter(|token| token.secret.chars().any(|c| !c.is_ascii_graphic())) {
            return Err(Error::Setting(format!("the token from {} has characters that no token has", token.from)));
        }
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token,
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
            pause: Duration::from_secs(1),
        })
    }
}

fn read_token(file: &Path) -> Option<Token> {
    let secret = fs::read_to_string(file).ok()?.trim().to_owned();
    (!secret.is_empty()).then(|| Token { secret, from: file.display().to_string() })
}

/// `~/x` as a shell reads it.
fn from_user(path: PathBuf, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Settings::from_variables(&find)
    }

    #[test]
    fn the_cache_is_where_other_programs_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Path::new("/u/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert!(settings(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn tokens_from_the_variable_or_a_file() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).unwrap().token;
        assert_eq!(token(&[("HF_HOME", place)]), None);
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let found = token(&[("HF_HOME", place)]).unwrap();
        assert_eq!((found.secret.as_str(), found.from.ends_with("/token")), ("hf_file", true));
        let found = token(&[("HF_HOME", place), ("HF_TOKEN", " hf_variable ")]).unwrap();
        assert_eq!(found, Token { secret: "hf_variable".into(), from: "HF_TOKEN".into() });
        assert!(!format!("{found:?}").contains("hf_variable"));
        assert!(settings(&[("HOME", "/u"), ("HF_TOKEN", "a\nb")]).is_err());
    }

    #[test]
    fn endpoint_and_offline() {
        let at = |variables: &[(&str, &str)]| settings(&[&[("HOME", "/u")], variables].concat());
        assert_eq!(at(&[]).unwrap().endpoint, "https://huggingface.co");
        assert_eq!(at(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).unwrap().endpoint, "http://127.0.0.1:1");
        assert!(at(&[("HF_ENDPOINT", "mirror")]).unwrap_err().to_string().contains("HF_ENDPOINT is mirror"));
        for (value, offline) in [("1", true), ("true", true), ("0", false), ("", false)] {
            assert_eq!(at(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value:?}");
        }
    }
}
