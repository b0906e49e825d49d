//! How a model is named: a path, or an id of the hub.

use super::paths;
use hub::{Fetched, Hub, Id, Layout, Progress};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    ops::Deref,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Opens the hub; asked only where a model is named by an id.
pub type HubOf<'a> = &'a dyn Fn() -> hub::Result<Hub>;

/// What was typed for a model, `models/sd15` or `OWNER/NAME@REVISION`, and where it lies. Written out, it is what was typed, `~` and variables in their meaning.
///
/// It stands for a path: the one that was typed, or after [`Location::fetch`] the folder in the hub's cache.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "PathBuf")]
#[schemars(inline)]
pub struct Location {
    typed: PathBuf,
    fetched: Option<Fetched>,
}

impl Location {
    pub fn typed(&self) -> &Path {
        &self.typed
    }

    /// Fetches a model that is named by its id, or finds it in the cache. A path that exists takes precedence over an
    /// id. What is neither is left for the code that opens it to reject. Logs the commit that an id refers to.
    pub fn fetch(
        &mut self,
        layout: Layout,
        variant: Option<&str>,
        hub: HubOf,
        progress: &dyn Progress,
    ) -> hub::Result<()> {
        hub::refuse_url(&self.typed)?;
        let Some(id) = Id::of(&self.typed) else { return Ok(()) };
        let id = Id { variant: variant.map(str::to_owned), ..id };
        let fetched = hub()?.fetch(&id, layout, progress)?;
        tracing::info!("{id}: commit {} in {}", fetched.commit, fetched.folder.display());
        self.fetched = Some(fetched);
        Ok(())
    }

    /// The commit that a hub id referred to when it was fetched.
    pub fn commit(&self) -> Option<&str> {
        self.fetched.as_ref().map(|fetched| fetched.commit.as_str())
    }
}

impl Deref for Location {
    type Target = Path;
    fn deref(&self) -> &Path {
        self.fetched.as_ref().map_or(&self.typed, |fetched| &fetched.folder)
    }
}

impl AsRef<Path> for Location {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// Compares what was typed; where it was found does not matter.
impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.typed == other.typed
    }
}

impl From<PathBuf> for Location {
    fn from(typed: PathBuf) -> Self {
        Self { typed, fetched: None }
    }
}

impl From<Location> for PathBuf {
    fn from(location: Location) -> Self {
        location.typed
    }
}

/// Parses what a person typed; expands `~` and variables.
impl FromStr for Location {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(paths::expanded(Path::new(text))?.into())
    }
}

impl TryFrom<String> for Location {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
