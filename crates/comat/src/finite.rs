//! Checks that everything a step computes is finite. A step that is not finite is skipped: it neither changes the
//! weights nor ends the run.

use anyhow::Result;
use std::fmt;
use tch::Tensor;

/// Most steps in a row that may be skipped. Then the run ends, since it learns nothing more.
pub const MOST_SKIPPED: u64 = 10;

/// The first part of a step that was not finite. The variants are in the order in which a step computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Latents,
    Image,
    CaptionLoss,
    Reward,
    Discriminator,
    Gradients,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Latents, Self::Image, Self::CaptionLoss, Self::Reward, Self::Discriminator, Self::Gradients];

    /// The part as a number, to be sent between ranks; 0 is `None`.
    pub fn code(part: Option<Self>) -> f64 {
        part.and_then(|part| Self::ALL.iter().position(|p| *p == part)).map_or(0.0, |place| place as f64 + 1.0)
    }

    /// The inverse of [`Part::code`].
    pub fn of_code(code: f64) -> Option<Self> {
        (code >= 1.0).then(|| Self::ALL.get(code as usize - 1).copied()).flatten()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Latents => "latents",
            Self::Image => "image",
            Self::CaptionLoss => "caption loss",
            Self::Reward => "reward",
            Self::Discriminator => "discriminator",
            Self::Gradients => "gradients",
        })
    }
}

/// A step cannot continue, because this part of it is not finite.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("not finite: {0}")]
pub struct NotFinite(pub Part);

/// Checks tensors in the given order. Synchronises with the device once.
///
/// # Errors
/// [`NotFinite`] of the first that contains a NaN or an infinity.
pub fn check(tensors: &[(Part, &Tensor)]) -> Result<()> {
    let all: Vec<Tensor> = tensors.iter().map(|(_, tensor)| tensor.isfinite().all()).collect();
    let finite = Vec::<bool>::try_from(&Tensor::stack(&all, 0))?;
    match tensors.iter().zip(finite).find(|(_, finite)| !finite) {
        Some(((part, _), _)) => Err(NotFinite(*part).into()),
        None => Ok(()),
    }
}

/// Like [`check`], for a number.
pub fn check_value(part: Part, value: f64) -> Result<(), NotFinite> {
    if value.is_finite() { Ok(()) } else { Err(NotFinite(part)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_named() {
        let [fine, inf, nan] = [1.0, f64::INFINITY, f64::NAN].map(|v| Tensor::from_slice(&[0.0, v]));
        assert!(check(&[(Part::Latents, &fine), (Part::Image, &fine)]).is_ok());
        let first = |latents: &Tensor, image: &Tensor| {
            let error = check(&[(Part::Latents, latents), (Part::Image, image)]).unwrap_err();
            *error.downcast_ref::<NotFinite>().unwrap()
        };
        assert_eq!(first(&fine, &nan), NotFinite(Part::Image));
        assert_eq!(first(&inf, &nan), NotFinite(Part::Latents));
        assert_eq!(check_value(Part::CaptionLoss, f64::NAN), Err(NotFinite(Part::CaptionLoss)));
    }

    #[test]
    fn parts_travel_as_numbers() {
        for part in Part::ALL {
            assert_eq!(Part::of_code(Part::code(Some(part))), Some(part));
        }
        assert_eq!((Part::of_code(Part::code(None)), Part::of_code(9.0), Part::of_code(f64::NAN)), (None, None, None));
    }
}
