use std::{fmt, path::Path};

/// A model on the hub: `OWNER/NAME`, or `OWNER/NAME@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// `OWNER/NAME`
    pub name: String,
    /// A branch, a tag or a commit; `None` is `main`.
    pub revision: Option<String>,
    /// Variant of the weights: a part of their file names, such as `fp16`. Used if there are any.
    pub variant: Option<String>,
    /// File of an adapter, if the repository has several.
    pub file: Option<String>,
}

/// Refuses a web address, which is neither a path nor an id.
///
/// # Errors
/// If it begins with `https://` or `http://`.
pub fn refuse_url(typed: &Path) -> crate::Result<()> {
    let text = typed.to_string_lossy();
    match text.starts_with("https://") || text.starts_with("http://") {
        true => Err(crate::Error::Setting(format!(
            "{text}: addresses are not fetched; give OWNER/NAME of the hub, or download it and give its path"
        ))),
        false => Ok(()),
    }
}

impl Id {
    /// Parses text typed for a model. `None`: it can only be a path. The caller must first check whether the path
    /// exists.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        let (owner, own) = name.split_once('/')?;
        // The hub's own rule for names. A file that is not there, such as `models/sd15.safetensors`, is no id.
        let word = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let outer = |c: char| c.is_ascii_alphanumeric() || c == '_';
            word.len() <= 96
                && word.chars().all(plain)
                && !(word.contains("--") || word.contains(".."))
                && word.starts_with(outer)
                && word.ends_with(outer)
        };
        let file = [".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".json", ".toml", ".git"];
        let revisable = |r: &str| {
            !r.is_empty()
                && r.split('/').all(|part| !matches!(part, "" | "." | ".."))
                && !r.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '@' | '?' | '#'))
        };
        let is_id = word(owner) && word(own) && !file.iter().any(|end| own.ends_with(end));
        (is_id && revision.is_none_or(revisable)).then(|| Self {
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
            variant: None,
            file: None,
        })
    }

    /// As [`Id::parse`], for a possible path: one that exists is not an id.
    pub fn of(path: &Path) -> Option<Self> {
        if path.exists() { None } else { Self::parse(path.to_str()?) }
    }

    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The revision, if it is a commit.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.revision.as_deref().filter(|r| is_commit(r))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether it is a full hash; only the hub can resolve a short one.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_what_is_none() {
        let id = Id::parse("stabilityai/stable-diffusion-xl-base-1.0").unwrap();
        assert_eq!((id.name.as_str(), id.revision()), ("stabilityai/stable-diffusion-xl-base-1.0", "main"));
        let id = Id::parse("a/b@refs/pr/3").unwrap();
        assert_eq!((id.name.as_str(), id.revision(), id.commit()), ("a/b", "refs/pr/3", None));
        assert_eq!(id.to_string(), "a/b@refs/pr/3");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Id::parse(&format!("a/b@{commit}")).unwrap().commit(), Some(commit));
        for path in [
            "",
            "a",
            "/a/b",
            "./a",
            "../a",
            "a/b/c",
            "a/",
            "/",
            "a//b",
            "a/b.safetensors",
            "a/b@",
            "a/b@../../c",
            "a/b@x y",
            "a b/c",
            "a/..",
            "a/b--c",
            "C:\\a/b",
            "a/b@c@d",
            "ä/b",
            "a/.b",
            "a/b@/c",
        ] {
            assert_eq!(Id::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn what_lies_there_is_a_path() {
        let there = tempfile::tempdir_in(".").unwrap();
        let name = there.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let folder = tempfile::Builder::new().prefix("owner").tempdir_in(".").unwrap();
        let owner = folder.path().file_name().unwrap().to_str().unwrap();
        let path = format!("{owner}/{name}");
        assert!(Id::of(Path::new(&path)).is_some());
        std::fs::create_dir(&path).unwrap();
        assert_eq!(Id::of(Path::new(&path)), None);
    }
}
