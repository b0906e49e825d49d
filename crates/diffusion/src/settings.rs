//! Settings of pipelines and sampling, as read from command line and files.

mod adapter;
mod device;
mod location;
pub mod paths;
mod sampling;

pub use adapter::{Adapter, Scaled, strength};
pub use device::{Dtype, Where};
pub use images::Size;
pub use location::{HubOf, Location};
pub use models::schedule::SamplerKind;
pub use sampling::Sampling;

use anyhow::{Result, bail};

/// Checks that all values are above zero.
///
/// # Errors
/// Names the first value that is not.
pub fn above_zero(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, value)| value.is_nan() || *value <= 0.0) {
        Some((key, value)) => bail!("{key} is {value}, it must be above 0"),
        None => Ok(()),
    }
}

/// Checks that all values are from 1 to their maximum.
///
/// # Errors
/// Names the first value that is not.
pub fn counts(values: &[(&str, i64, i64)]) -> Result<()> {
    match values.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
        Some((key, value, most)) => bail!("{key} is {value}, it must be from 1 to {most}"),
        None => Ok(()),
    }
}

/// Checks that all values are between 0 and their maximum; one that is no whole number is taken for the next one,
/// which is excluded.
///
/// # Errors
/// Names the first value that is not.
pub fn in_range(values: &[(&str, f64, f64)]) -> Result<()> {
    match values.iter().find(|(_, value, most)| !(0.0..=*most).contains(value)) {
        Some((key, value, most)) if most.fract() > 0.0 => {
            bail!("{key} is {value}, it must be at least 0 and below {:.0}", most.ceil())
        }
        Some((key, value, most)) if *most < f64::MAX => bail!("{key} is {value}, it must be from 0 to {most:.0}"),
        Some((key, value, _)) => bail!("{key} is {value}, it must be a finite number, not below 0"),
        None => Ok(()),
    }
}
