//! Families of models: the interface that the rest of the program uses. To add one, write a file here and a line in
//! [`FAMILIES`].

mod model;
pub mod stable_diffusion;

pub use model::{Family, Overrides, Parts, Precision, Request, is_single_file};

use anyhow::Result;
use model::{class, unknown};
use std::path::Path;

/// Whether a class is of the family.
type Knows = fn(&str) -> bool;
type Open = fn(&Path, &Request) -> Result<Parts>;

/// The families, by `_class_name` in `model_index.json`.
const FAMILIES: &[(Knows, Open)] =
    &[(|class| stable_diffusion::is_xl(class).is_some(), stable_diffusion::folder::open)];

/// Opens a model of any family.
///
/// # Errors
/// Names what is missing or not implemented, by file and key.
pub fn open(path: &Path, request: &Request) -> Result<Parts> {
    if request.tokenizer.is_some() && is_single_file(path) {
        return stable_diffusion::single::open(path, request);
    }
    let (class, index) = class(path)?;
    match FAMILIES.iter().find(|(knows, _)| knows(&class)) {
        Some((_, open)) => open(path, request),
        None => Err(unknown(&index, &class).into()),
    }
}
