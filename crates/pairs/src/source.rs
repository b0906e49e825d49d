//! Where the bytes of an image are: a file, or a part of a shard.

use anyhow::Result;
use images::{Image, decode};
use models::Error;
use std::{
    fmt, fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

#[derive(Debug, Clone)]
pub(super) enum Source {
    File(Arc<Path>),
    Member { shard: Arc<Path>, name: Arc<str>, offset: u64, length: u64 },
}

impl Source {
    pub(super) fn image(&self) -> Result<Image> {
        let image = decode::decode(&self.bytes()?);
        Ok(image.map_err(|e| match self {
            Self::File(path) => Error::file(path, format!("broken image: {e}")),
            Self::Member { shard, name, .. } => Error::file(shard, format!("{name}: broken image: {e}")),
        })?)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => Ok(fs::read(path).map_err(Error::io(path))?),
            Self::Member { shard, name, offset, length } => {
                let read = || {
                    let mut file = fs::File::open(shard)?;
                    file.seek(SeekFrom::Start(*offset))?;
                    let mut bytes = vec![];
                    file.take(*length).read_to_end(&mut bytes)?;
                    Ok(bytes)
                };
                let bytes = read().map_err(Error::io(shard))?;
                if (bytes.len() as u64) < *length {
                    return Err(Error::file(shard, format!("{name} is cut off; has the shard changed?")).into());
                }
                Ok(bytes)
            }
        }
    }
}

/// The path of the file; for a shard, also the name of the member.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Member { shard, name, .. } => write!(f, "{}: {name}", shard.display()),
        }
    }
}
