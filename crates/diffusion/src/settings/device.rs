//! Precision and device.

use anyhow::{Result, bail};
use images::size::typed;
use ranks::ProcessGroup;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de, ser};
use std::{borrow::Cow, fmt, str::FromStr};
use tch::{Device, Kind};

/// The precision that numbers are computed and kept in.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    #[default]
    #[serde(alias = "fp32")]
    Float32,
    #[serde(alias = "fp16")]
    Float16,
    #[serde(alias = "bf16")]
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

impl From<Kind> for Dtype {
    /// From a kind that networks compute in; any other becomes float32.
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Half => Self::Float16,
            Kind::BFloat16 => Self::Bfloat16,
            Kind::Double => Self::Float64,
            _ => Self::Float32,
        }
    }
}

/// Written as it is typed.
impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Float64 => "float64",
        })
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
    /// The device, or an error if the machine has no such device.
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

impl Where {
    /// The device of a rank, if `auto` or `cuda` does not determine it.
    pub fn of_rank(self, ranks: &ProcessGroup) -> Self {
        match (self, ranks.gpu()) {
            (Self::Auto | Self::Cuda(0), Some(gpu)) => Self::Cuda(gpu),
            _ => self,
        }
    }
}

impl From<Device> for Where {
    fn from(device: Device) -> Self {
        match device {
            Device::Cuda(index) => Self::Cuda(index),
            _ => Self::Cpu,
        }
    }
}

impl JsonSchema for Where {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Where".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(auto|cpu|cuda|cuda:[0-9]+)$" })
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

impl<'de> Deserialize<'de> for Where {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        typed(deserializer)
    }
}

impl Serialize for Where {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
