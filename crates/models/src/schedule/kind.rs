//! The samplers by name.

use super::Spacing;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
pub enum SamplerKind {
    /// Stochastic, with the small variance of equation 7 in the DDPM paper. Can train.
    #[serde(rename = "ddpm", alias = "DDPM")]
    Ddpm,
    /// Deterministic where `eta` is 0. Can train.
    #[serde(rename = "ddim", alias = "DDIM")]
    Ddim,
    /// Deterministic, of first order. Can train.
    #[serde(rename = "euler", alias = "Euler")]
    Euler,
    /// Euler ancestral: with new noise in every step.
    #[serde(rename = "euler_a", alias = "Euler a", alias = "euler a")]
    EulerA,
    /// Deterministic, of second order: it also uses the step before.
    #[serde(rename = "dpm++_2m", alias = "DPM++ 2M", alias = "dpm++ 2m")]
    Dpmpp2m,
    /// DPM++ 2M along the noise levels of Karras et al. 2022.
    #[serde(rename = "dpm++_2m_karras", alias = "DPM++ 2M Karras", alias = "dpm++ 2m karras")]
    Dpmpp2mKarras,
}

impl SamplerKind {
    pub const ALL: [Self; 6] = [Self::Ddpm, Self::Ddim, Self::Euler, Self::EulerA, Self::Dpmpp2m, Self::Dpmpp2mKarras];

    /// The name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::EulerA => "euler_a",
            Self::Dpmpp2m => "dpm++_2m",
            Self::Dpmpp2mKarras => "dpm++_2m_karras",
        }
    }

    /// The name in A1111, and in programs that read its images.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPM",
            Self::Ddim => "DDIM",
            Self::Euler => "Euler",
            Self::EulerA => "Euler a",
            Self::Dpmpp2m => "DPM++ 2M",
            Self::Dpmpp2mKarras => "DPM++ 2M Karras",
        }
    }

    /// Whether training can replay its trajectories.
    pub fn trains(self) -> bool {
        matches!(self, Self::Ddpm | Self::Ddim | Self::Euler)
    }

    /// How its steps are distributed if a scheduler's file does not say. As in diffusers, whose `from_config` uses the
    /// default of the class that draws, not of the class that the file names.
    pub fn spacing(self) -> Spacing {
        match self {
            Self::Ddpm | Self::Ddim => Spacing::Leading,
            Self::Euler | Self::EulerA | Self::Dpmpp2m | Self::Dpmpp2mKarras => Spacing::Linspace,
        }
    }

    /// The names of the samplers that meet the condition, as a list in a sentence.
    pub fn names(which: impl Fn(Self) -> bool) -> String {
        let names: Vec<&str> = Self::ALL.into_iter().filter(|kind| which(*kind)).map(Self::name).collect();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Parses a name or title, in any case.
impl FromStr for SamplerKind {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |text: &str| text.trim().to_lowercase().replace([' ', '-'], "_");
        let wanted = plain(name);
        Self::ALL
            .into_iter()
            .find(|kind| [kind.name(), kind.title()].iter().any(|known| plain(known) == wanted))
            .ok_or_else(|| format!("unknown sampler `{name}`; there are {}", Self::names(|_| true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for kind in SamplerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.title().parse(), Ok(kind));
            let quoted = format!("\"{kind}\"");
            assert_eq!(serde_json::from_str::<SamplerKind>(&quoted).unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), quoted);
            for title in [kind.title().to_owned(), kind.title().replace(' ', "_").to_lowercase()] {
                assert_eq!(serde_json::from_value::<SamplerKind>(title.as_str().into()).ok(), Some(kind), "{title}");
            }
        }
        assert_eq!(SamplerKind::names(SamplerKind::trains), "ddpm, ddim and euler");
        assert!("heun".parse::<SamplerKind>().unwrap_err().contains("dpm++_2m and dpm++_2m_karras"));
    }
}
