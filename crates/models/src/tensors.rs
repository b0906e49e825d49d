//! Safetensors files: read by memory map; written whole or not at all.
//!
//! Format: <https://github.com/huggingface/safetensors>; 8 bytes of header length, a JSON header, the raw values.

use crate::{
    error::{Error, Result},
    mistaken, scaled,
    whole::write_durable,
};
use safetensors::tensor::{Dtype, Metadata, View};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Reads the tensors and the metadata of one file. Values stay on disk until they are used, and must not be written to.
/// 8-bit values (`F8_E4M3`, `F8_E5M2`) become float16, which represents them exactly; if they have scales, they become
/// the products in float32. Tensors of types that libtorch does not have are left out with a warning; code that needs
/// one reports it as missing.
///
/// # Errors
/// A file of another kind (the error names the kind); a file that is not complete.
pub fn read(path: &Path) -> Result<(Tensors, HashMap<String, String>)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut start = vec![];
    (&mut file).take(mistaken::LOOKED_AT as u64).read_to_end(&mut start).map_err(Error::io(path))?;
    if let Some(what) = mistaken::for_safetensors(&start, size) {
        return Err(Error::file(path, what));
    }
    if let Some("ckpt" | "pt" | "pth" | "bin") = path.extension().and_then(|e| e.to_str())
        && !mistaken::has_header(&start, size)
    {
        return Err(Error::file(
            path,
            "this is a pickle, which can run code when it is read; convert it to .safetensors",
        ));
    }
    let Some((length, _)) = start.split_first_chunk::<8>() else {
        return Err(Error::file(path, "not a safetensors file: it is shorter than a header"));
    };
    let length = u64::from_le_bytes(*length);
    if length > size - 8 {
        return Err(Error::file(path, "not a safetensors file, or a truncated one: the header goes past its end"));
    }
    let mut header = vec![0; length as usize];
    file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut header)).map_err(Error::io(path))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| Error::file(path, format!("not a safetensors file, or a corrupt one: {e}")))?;
    let start = 8 + length as usize;
    let end = metadata.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0);
    if (start + end) as u64 != size {
        let what = if ((start + end) as u64) < size { "has bytes behind its last tensor" } else { "is truncated" };
        return Err(Error::file(path, format!("the file {what}: {size} bytes, {} expected", start + end)));
    }
    let name = path.to_str().ok_or_else(|| Error::file(path, "the path is not valid UTF-8"))?;
    let bytes = Tensor::f_from_file(name, false, size as i64, (Kind::Uint8, Device::Cpu))?;
    let (mut tensors, mut left_out) = (Tensors::new(), vec![]);
    for (name, info) in metadata.tensors() {
        let Some(kind) = kind_of(info.dtype).or(eight_bits(info.dtype)) else {
            left_out.push(format!("{name} ({:?})", info.dtype));
            continue;
        };
        let (from, to) = info.data_offsets;
        let mut values = bytes.f_narrow(0, (start + from) as i64, (to - from) as i64)?;
        if !(start + from).is_multiple_of(kind.elt_size_in_bytes()) {
            values = values.copy(); // a view needs alignment, which the format does not guarantee
        }
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let values = values.f_view_dtype(kind)?.f_view(shape.as_slice())?;
        tensors.insert(name, if eight_bits(info.dtype).is_some() { values.f_to_kind(Kind::Half)? } else { values });
    }
    if let [first, others @ ..] = &left_out[..] {
        let known = DTYPES.map(|(dtype, _)| format!("{dtype:?}")).join(", ");
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        tracing::warn!(
            "{}: left out, for the type of its numbers: tensor {first}{more}; {known}, F8_E4M3 and F8_E5M2 are read",
            path.display()
        );
    }
    let mut tensors = without_wrappers(tensors);
    scaled::multiply(&mut tensors).map_err(|message| Error::file(path, message))?;
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// Removes what `torch.compile` and parallel training put before all keys of a network that was saved inside of them.
fn without_wrappers(mut tensors: Tensors) -> Tensors {
    const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];
    let of_all = |tensors: &Tensors, prefix: &str| !tensors.is_empty() && tensors.keys().all(|k| k.starts_with(prefix));
    while let Some(prefix) = WRAPPERS.into_iter().find(|prefix| of_all(&tensors, prefix)) {
        tensors = tensors.into_iter().map(|(key, tensor)| (key[prefix.len()..].to_owned(), tensor)).collect();
    }
    tensors
}

/// Writes a file, whole or not at all, and waits until it is on the disk. The same values give the same bytes.
pub fn write(path: &Path, tensors: &Tensors, metadata: HashMap<String, String>) -> Result<()> {
    let views = tensors.iter().map(|(name, t)| Ok((name, Raw::new(t)?))).collect::<Result<Vec<_>>>()?;
    let metadata = (!metadata.is_empty()).then_some(metadata);
    write_durable(path, |partial| {
        // The library creates files that only their owner may read; ours get the permissions of any new file.
        let permissions = fs::metadata(partial).map_err(Error::io(path))?.permissions();
        safetensors::serialize_to_file(views, metadata, partial).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(cause) => Error::io(path)(cause),
            e => Error::file(path, e.to_string()),
        })?;
        fs::set_permissions(partial, permissions).map_err(Error::io(path))?;
        sort_metadata(partial).map_err(Error::io(path))
    })
}

/// Sorts the metadata of a new file; the library writes them in random order.
fn sort_metadata(path: &Path) -> io::Result<()> {
    const START: &[u8] = br#"{"__metadata__":"#;
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header)?;
    if let Some(rest) = header.strip_prefix(START) {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<BTreeMap<String, String>>();
        let sorted = values.next().transpose()?.unwrap_or_default();
        let sorted = serde_json::to_vec(&sorted)?;
        if sorted.len() == values.byte_offset() {
            file.seek(SeekFrom::Start((length.len() + START.len()) as u64))?;
            file.write_all(&sorted)?;
        }
    }
    Ok(())
}

/// The name of a file while it is being written.
pub fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Raw {
    fn new(tensor: &Tensor) -> Result<Self> {
        let dtype = DTYPES.iter().find(|(_, kind)| *kind == tensor.kind()).map(|(dtype, _)| *dtype);
        let dtype = dtype.ok_or_else(|| Error::Input(format!("{:?} tensors cannot be saved", tensor.kind())))?;
        let flat = tensor.detach().to_device(Device::Cpu).contiguous().view([-1]).f_view_dtype(Kind::Uint8)?;
        let mut bytes = vec![0; flat.numel()];
        flat.f_copy_data_u8(&mut bytes, flat.numel())?;
        Ok(Self { dtype, shape: tensor.size().iter().map(|&n| n as usize).collect(), bytes })
    }
}

impl View for Raw {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

const DTYPES: [(Dtype, Kind); 10] = [
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F64, Kind::Double),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::U8, Kind::Uint8),
    (Dtype::I8, Kind::Int8),
    (Dtype::BOOL, Kind::Bool),
];

fn kind_of(dtype: Dtype) -> Option<Kind> {
    DTYPES.iter().find(|(d, _)| *d == dtype).map(|(_, kind)| *kind)
}

/// The 8-bit types, which support hardly any operation.
fn eight_bits(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F8_E4M3 => Some(Kind::Float8e4m3fn),
        Dtype::F8_E5M2 => Some(Kind::Float8e5m2),
        _ => None,
    }
}
