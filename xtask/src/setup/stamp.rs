//! `libtorch/stamp`: what the folder holds, in one line such as `2.11.0 cuda 1`.

use super::VERSION;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Name of the stamp inside ./libtorch.
pub const FILE: &str = "stamp";

/// Goes up when set-up unpacks other files of the same version, so that older folders are made anew.
const LAYOUT: u32 = 1;

/// What libtorch can compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Cuda,
}

impl Kind {
    /// Rounded: what is downloaded, and what lies on the disk in the end. In between it is up to half a gigabyte more,
    /// and the set-up that is being replaced.
    pub fn gigabytes(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpu => ("0.5", "0.5"),
            Self::Cuda => ("2.5", "3.8"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// The content of a stamp file.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// The stamp that today's set-up writes.
    pub fn of(kind: Kind) -> Self {
        Self(format!("{VERSION} {kind} {LAYOUT}"))
    }

    /// The folder's stamp; None where there is no folder or an empty one. A folder with other things and no stamp is
    /// the user's: an error, for set-up would overwrite it.
    pub fn read(libtorch: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(libtorch.join(FILE)) {
            Ok(text) => Ok(Some(Self(text.trim_end().to_string()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let empty = fs::read_dir(libtorch).is_ok_and(|mut entries| entries.next().is_none());
                if libtorch.exists() && !empty {
                    bail!(
                        "{0} was not made by `cargo xtask setup` (it has no file named {FILE}); remove it, or set LIBTORCH \
                         to use a libtorch of your own from another place",
                        libtorch.display()
                    );
                }
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("could not read {}", libtorch.join(FILE).display())),
        }
    }

    /// Is nothing missing for this kind? A folder made for CUDA serves the CPU as well.
    pub fn serves(&self, want: Kind) -> bool {
        *self == Self::of(Kind::Cuda) || *self == Self::of(want)
    }

    /// The content of the file.
    pub fn text(&self) -> String {
        format!("{}\n", self.0)
    }
}

/// `2.11.0 cuda`, for messages.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words: Vec<_> = self.0.split(' ').take(2).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_serves_both() {
        assert!(Stamp::of(Kind::Cuda).serves(Kind::Cuda));
        assert!(Stamp::of(Kind::Cuda).serves(Kind::Cpu));
        assert!(Stamp::of(Kind::Cpu).serves(Kind::Cpu));
        assert!(!Stamp::of(Kind::Cpu).serves(Kind::Cuda));
    }

    #[test]
    fn other_versions_and_layouts_serve_nobody() {
        for text in ["2.10.0 cuda 1", "2.11.0 cpu 0", "2.11.0 cpu", "", "noise"] {
            assert!(!Stamp(text.into()).serves(Kind::Cpu), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let libtorch = folder.path().join("libtorch");
        assert_eq!(Stamp::read(&libtorch).unwrap(), None);
        fs::create_dir(&libtorch).unwrap();
        assert_eq!(Stamp::read(&libtorch).unwrap(), None);
        fs::write(libtorch.join(FILE), Stamp::of(Kind::Cpu).text()).unwrap();
        let stamp = Stamp::read(&libtorch).unwrap().unwrap();
        assert_eq!(stamp, Stamp::of(Kind::Cpu));
        assert_eq!(stamp.to_string(), "2.11.0 cpu");
    }

    #[test]
    fn a_folder_of_the_users_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("build-version"), "2.11.0").unwrap();
        let error = Stamp::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("was not made by `cargo xtask setup`"), "{error}");
    }
}
