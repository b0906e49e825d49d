//! Decodes images, and writes tensors to PNG files with prompt, seed and settings in the text chunks.

pub mod decode;
pub mod size;
pub mod text;

pub use size::Size;

use anyhow::{Context, Result, bail};
use models::Error;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Cursor, Write},
    path::Path,
};
use tch::{Device, Kind, Tensor};

/// The text chunks of a PNG file by their keywords.
pub type Texts = BTreeMap<String, String>;

/// An 8-bit RGB image.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl Image {
    /// From `[3, H, W]` in 0..1; values outside are clamped.
    pub fn from_tensor(image: &Tensor) -> Result<Self> {
        let (channels, height, width) = image.size3()?;
        if channels != 3 {
            bail!("an image of {channels} channels cannot be saved");
        }
        let bytes = (image.detach().to_device(Device::Cpu).to_kind(Kind::Float).clamp(0.0, 1.0) * 255.0).round();
        let bytes = bytes.to_kind(Kind::Uint8).permute([1, 2, 0]).contiguous().view([-1]);
        Ok(Self { width: width as usize, height: height as usize, pixels: Vec::<u8>::try_from(bytes)? })
    }

    /// `[3, H, W]`, single precision, 0..1.
    pub fn tensor(&self) -> Result<Tensor> {
        let bytes = Tensor::f_from_slice(&self.pixels)?.f_view([self.height as i64, self.width as i64, 3])?;
        Ok((bytes.permute([2, 0, 1]).contiguous().to_kind(Kind::Float)) / 255.0)
    }

    pub fn white(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![255; width * height * 3] }
    }

    /// Copies another image into this one, in which it must fit.
    pub fn paste(&mut self, left: usize, top: usize, image: &Image) {
        for (y, row) in image.pixels.chunks_exact(image.width * 3).enumerate() {
            let start = ((top + y) * self.width + left) * 3;
            self.pixels[start..start + row.len()].copy_from_slice(row);
        }
    }

    /// Images in rows of `columns`, a white line between them.
    pub fn grid(images: &[Image], columns: usize) -> Self {
        const GAP: usize = 4;
        let columns = columns.clamp(1, images.len().max(1));
        let rows = images.len().div_ceil(columns);
        let (w, h) = images.iter().fold((0, 0), |(w, h), p| (w.max(p.width), h.max(p.height)));
        let side = |cells: usize, size: usize| (cells * (size + GAP)).saturating_sub(GAP);
        let mut grid = Self::white(side(columns, w), side(rows, h));
        for (i, image) in images.iter().enumerate() {
            grid.paste((i % columns) * (w + GAP), (i / columns) * (h + GAP), image);
        }
        grid
    }

    /// Every pixel becomes a square of `factor` pixels, so that small images stay sharp on a screen.
    pub fn enlarge(&self, factor: usize) -> Self {
        let mut pixels = Vec::with_capacity(self.pixels.len() * factor * factor);
        for row in self.pixels.chunks_exact(self.width * 3) {
            let wide: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
            (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
        }
        Self { width: self.width * factor, height: self.height * factor, pixels }
    }

    /// Reads a PNG, JPEG or WebP, as [`Image::decode`] does.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::open_with_texts(path)?.0)
    }

    /// From the bytes of a PNG, JPEG or WebP of any depth: upright, in RGB, over white where it is transparent.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        crate::decode::decode(bytes)
    }

    /// As [`Image::open`], with the texts of a PNG.
    pub fn open_with_texts(path: &Path) -> Result<(Self, Texts)> {
        Self::decode_with_texts(&fs::read(path).map_err(Error::io(path))?, path)
    }

    /// As [`Image::decode`], with the texts of a PNG. `path`: the file to name in errors.
    pub fn decode_with_texts(bytes: &[u8], path: &Path) -> Result<(Self, Texts)> {
        let read = || Ok((Self::decode(bytes)?, texts(bytes)?));
        Ok(read().map_err(|e: anyhow::Error| Error::file(path, format!("{e:#}")))?)
    }

    /// Writes a PNG, whole or not at all.
    pub fn save(&self, path: &Path, texts: &[(&str, &str)]) -> Result<()> {
        models::write_whole(path, |partial| self.write(partial, texts))
    }

    /// The bytes of a PNG.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        self.encode(&mut bytes, &[])?;
        Ok(bytes)
    }

    fn write(&self, path: &Path, texts: &[(&str, &str)]) -> Result<()> {
        let file = fs::File::create(path).map_err(Error::io(path))?;
        let failed = |e: png::EncodingError| match e {
            png::EncodingError::IoError(source) => anyhow::Error::from(Error::io(path)(source)),
            e => Error::file(path, e.to_string()).into(),
        };
        self.encode(BufWriter::new(file), texts).map_err(failed)
    }

    fn encode(&self, to: impl Write, texts: &[(&str, &str)]) -> Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(to, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (key, text) in texts {
            encoder.add_itxt_chunk((*key).to_owned(), (*text).to_owned())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()
    }
}

/// The text chunks of a PNG; an image of another format has none.
///
/// # Errors
/// If the PNG is broken, or has a text longer than 16 MiB.
pub fn texts(bytes: &[u8]) -> Result<Texts> {
    const MOST: usize = 1 << 24;
    let mut texts = Texts::new();
    if !bytes.starts_with(b"\x89PNG") {
        return Ok(texts);
    }
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info()?;
    reader.finish()?; // text may follow the pixels
    for chunk in &reader.info().uncompressed_latin1_text {
        texts.insert(chunk.keyword.clone(), chunk.text.clone());
    }
    for chunk in &reader.info().utf8_text {
        let mut chunk = chunk.clone();
        let text = chunk.decompress_text_with_limit(MOST).and_then(|()| chunk.get_text());
        texts.insert(chunk.keyword.clone(), text.with_context(|| format!("text `{}`", chunk.keyword))?);
    }
    Ok(texts)
}

/// A prompt as a part of a file name.
pub fn slug(prompt: &str) -> String {
    let words: Vec<String> =
        prompt.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
    let mut slug = words.join("-");
    while slug.len() > 60 {
        slug.pop();
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, height: usize, value: u8) -> Image {
        Image { width, height, pixels: vec![value; width * height * 3] }
    }

    #[test]
    fn tensors_become_pixels() {
        let image = Tensor::from_slice(&[0f32, 0.5, 1.0, 2.0, -1.0, 1.0]).view([3, 1, 2]);
        let image = Image::from_tensor(&image).unwrap();
        assert_eq!(image.pixels, [0, 255, 0, 128, 255, 255]);
        assert_eq!(Image::from_tensor(&image.tensor().unwrap()).unwrap(), image);
        assert!(Image::from_tensor(&Tensor::zeros([1, 2, 2], (Kind::Float, Device::Cpu))).is_err());
    }

    #[test]
    fn grids_and_text_survive_the_file() {
        let grid = Image::grid(&[plain(2, 3, 0), plain(2, 3, 9), plain(2, 3, 7)], 2);
        assert_eq!((grid.width, grid.height), (2 + 4 + 2, 3 + 4 + 3));
        assert_eq!((grid.pixels[0], grid.pixels[2 * 3], grid.pixels[6 * 3]), (0, 255, 9));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grid.png");
        grid.save(&path, &[("parameters", "a café ☕\nSteps: 3")]).unwrap();
        let (read, texts) = Image::open_with_texts(&path).unwrap();
        assert_eq!(read, grid);
        assert_eq!(texts, Texts::from([("parameters".into(), "a café ☕\nSteps: 3".into())]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(grid.save(&folder.path().join("no/such.png"), &[]).unwrap_err().to_string().contains("such.png"));
    }

    /// Other programs write plain text chunks, also behind the pixels.
    #[test]
    fn text_of_other_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.png");
        let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_text_chunk("prompt".into(), "a red star".into()).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[1, 2, 3]).unwrap();
        let late = png::text_metadata::TEXtChunk::new("seed", "7");
        writer.write_text_chunk(&late).unwrap();
        writer.finish().unwrap();
        let (image, texts) = Image::open_with_texts(&path).unwrap();
        assert_eq!(image.pixels, [1, 2, 3]);
        assert_eq!(texts, Texts::from([("prompt".into(), "a red star".into()), ("seed".into(), "7".into())]));
        fs::write(&path, &fs::read(&path).unwrap()[..40]).unwrap();
        assert!(Image::open_with_texts(&path).unwrap_err().to_string().contains("other.png"));
    }

    #[test]
    fn images_of_other_programs() {
        let folder = tempfile::tempdir().unwrap();
        let opened = |name: &str, image: image::DynamicImage| {
            image.save(folder.path().join(name)).unwrap();
            Image::open_with_texts(&folder.path().join(name)).unwrap()
        };
        let grey = image::GrayImage::from_pixel(8, 4, [77].into());
        for name in ["a.png", "a.jpg", "a.webp"] {
            let (image, texts) = opened(name, image::DynamicImage::from(grey.clone()).into_rgb8().into());
            assert_eq!((image, texts), (plain(8, 4, 77), Texts::new()), "{name}");
        }
        assert_eq!(opened("grey.png", grey.into()).0, plain(8, 4, 77));
        let clear = image::RgbaImage::from_pixel(2, 1, [9, 9, 9, 0].into());
        assert_eq!(opened("clear.png", clear.into()).0, plain(2, 1, 255));
    }

    #[test]
    fn enlarging() {
        let image = Image { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] }.enlarge(2);
        assert_eq!((image.width, image.height), (4, 2));
        assert_eq!(image.pixels[..12], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
    }

    #[test]
    fn slugs() {
        assert_eq!(slug("A red Dog, and... a café!"), "a-red-dog-and-a-café");
        assert!(slug(&"é".repeat(100)).len() <= 60);
    }
}
