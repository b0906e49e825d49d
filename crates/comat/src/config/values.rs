//! Values that are typed as text: precision, device, size, micro-batch.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize, de};
use std::{fmt, str::FromStr};
use tch::{Device, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    #[default]
    Float32,
    Float16,
    Bfloat16,
    Float64,
}

impl Dtype {
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Float16 => Kind::Half,
            Self::Bfloat16 => Kind::BFloat16,
            Self::Float64 => Kind::Double,
        }
    }
}

impl FromStr for Dtype {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "float32" | "fp32" => Ok(Self::Float32),
            "float16" | "fp16" => Ok(Self::Float16),
            "bfloat16" | "bf16" => Ok(Self::Bfloat16),
            "float64" => Ok(Self::Float64),
            _ => Err(format!("unknown dtype `{name}`; there are float32, float16, bfloat16 and float64")),
        }
    }
}

/// A device as it is typed: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Where {
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

impl Where {
    /// The device, or an error where the machine has none such.
    pub fn device(self) -> Result<Device> {
        let count = if tch::Cuda::is_available() { tch::Cuda::device_count() as usize } else { 0 };
        match self {
            Self::Auto if count > 0 => Ok(Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) if index < count => Ok(Device::Cuda(index)),
            Self::Cuda(index) => bail!("device cuda:{index}: libtorch sees {count} CUDA devices here; use cpu or auto"),
        }
    }
}

impl FromStr for Where {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
                Some(index) => Ok(Self::Cuda(index)),
                None => Err(format!("unknown device `{name}`; there are auto, cpu, cuda and cuda:N")),
            },
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Width and height in pixels, typed as `768x512`, or `512` for a square.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    pub width: i64,
    pub height: i64,
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once('x').unwrap_or((text, text));
        match (width.trim().parse(), height.trim().parse()) {
            (Ok(width), Ok(height)) if width > 0 && height > 0 => Ok(Self { width, height }),
            _ => Err(format!("`{text}` is not a size; write WIDTHxHEIGHT, for example 768x512, or 512 for a square")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// How many samples a part of a step takes at a time, typed as a number (0: the whole batch) or as `auto`: as many as fit into the
/// device's free memory, measured before the first step ([`crate::plan::micro_batch`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MicroBatch {
    #[default]
    Auto,
    Samples(usize),
}

impl MicroBatch {
    pub const WHOLE: Self = Self::Samples(0);

    /// Samples at a time; 0, the whole batch, where it is still to be chosen.
    pub fn samples(self) -> usize {
        match self {
            Self::Auto => 0,
            Self::Samples(samples) => samples,
        }
    }
}

impl FromStr for MicroBatch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Samples).map_err(|_| {
                format!("`{text}` is not a micro-batch; write \"auto\", or a number of samples (0: the whole batch)")
            }),
        }
    }
}

impl fmt::Display for MicroBatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Samples(samples) => write!(f, "{samples}"),
        }
    }
}

impl Serialize for MicroBatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Samples(samples) => serializer.serialize_u64(*samples as u64),
        }
    }
}

/// Values that are typed as text: read by `FromStr`, written by `Display`.
macro_rules! from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Typed {
                    Text(String),
                    Number(i64),
                }
                let text = match Typed::deserialize(deserializer)? {
                    Typed::Text(text) => text,
                    Typed::Number(number) => number.to_string(),
                };
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
macro_rules! to_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
from_text!(Where, Size, MicroBatch);
to_text!(Where, Size);
