//! Decodes image files and resizes images to a network's input.

use crate::{Image, Size};
use anyhow::{Result, bail};
use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use models::text;
use std::io::Cursor;

/// Decodes an image: upright, in RGB, with white behind transparency. The format follows from the bytes, not the file
/// name.
pub fn decode(bytes: &[u8]) -> Result<Image> {
    if let Some(what) = text::mistaken_for_image(bytes) {
        bail!("{what}");
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if reader.format() == Some(ImageFormat::Jpeg) && lacks_end(bytes) {
        bail!("the JPEG is cut off; is the copy complete?");
    }
    let mut decoder = reader.into_decoder()?;
    Limits::default().reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = match image.color().has_alpha() {
        true => image.into_rgba8().pixels().flat_map(|p| over_white(p.0)).collect(),
        false => image.into_rgb8().into_raw(),
    };
    Ok(Image { width, height, pixels })
}

/// Whether no end marker follows the start of the first scan: the decoder would fill the missing part with grey. Before
/// that scan, a thumbnail may have an end marker of its own.
fn lacks_end(jpeg: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match jpeg.get(at..at + 4) {
            Some([0xff, 0xda, ..]) => return !jpeg[at..].windows(2).any(|marker| marker == [0xff, 0xd9]),
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, _, high, low]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false, // the decoder knows better what is wrong
        }
    }
}

fn over_white([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    let a = u32::from(a);
    [r, g, b].map(|value| ((u32::from(value) * a + 255 * (255 - a) + 127) / 255) as u8)
}

/// Crops the largest centred part with the aspect ratio of `size`, and resizes it to that size: antialiased, with the
/// cubic filter that the preprocessors of diffusers and transformers use.
pub fn cover(image: &Image, size: Size) -> Result<Image> {
    let (width, height) = (u32::try_from(size.width)?, u32::try_from(size.height)?);
    let (from_width, from_height) = (u32::try_from(image.width)?, u32::try_from(image.height)?);
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let from = TypedImageRef::<U8x3>::from_buffer(from_width, from_height, &image.pixels)?;
    let mut to = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels)?;
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .fit_into_destination(Some((0.5, 0.5)));
    // for this type of pixel alone: for all of them the crate takes minutes to compile
    Resizer::new().resize_typed::<U8x3>(&from, &mut to, &options)?;
    Ok(Image { width: width as usize, height: height as usize, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{
        ExtendedColorType, GrayAlphaImage, GrayImage, ImageEncoder, RgbImage, RgbaImage,
        codecs::{jpeg::JpegEncoder, png::PngEncoder},
    };

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn everything_becomes_rgb() {
        let pixels = |image: DynamicImage| decode(&png(image)).unwrap().pixels;
        assert_eq!(pixels(GrayImage::from_pixel(1, 1, [77].into()).into()), [77; 3]);
        let wide = image::ImageBuffer::<image::Luma<u16>, _>::from_pixel(1, 1, [77 * 257].into());
        assert_eq!(pixels(wide.into()), [77; 3]);
        let alpha = |value: u8| RgbaImage::from_pixel(1, 1, [200, 100, 0, value].into()).into();
        assert_eq!(pixels(alpha(255)), [200, 100, 0]);
        assert_eq!(pixels(alpha(0)), [255; 3]);
        assert_eq!(pixels(alpha(51)), [244, 224, 204]);
        assert_eq!(pixels(GrayAlphaImage::from_pixel(1, 1, [0, 102].into()).into()), [153; 3]);
    }

    /// An image that was taken with the camera on its side.
    #[test]
    fn cameras_may_be_turned() {
        const QUARTER_TURN: u8 = 6; // the top of the scene is on the left of the sensor's rows
        let exif = [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[QUARTER_TURN], &[0; 6]].concat();
        let mut image = RgbImage::new(16, 8);
        (0..8).for_each(|x| (0..8).for_each(|y| image.put_pixel(x, y, [255; 3].into())));
        let (mut jpeg, mut png) = (vec![], vec![]);
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoder.set_exif_metadata(exif.clone()).unwrap();
        encoder.write_image(&image, 16, 8, ExtendedColorType::Rgb8).unwrap();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&image, 16, 8, ExtendedColorType::Rgb8).unwrap();
        for bytes in [jpeg, png] {
            let image = decode(&bytes).unwrap();
            assert_eq!((image.width, image.height), (8, 16));
            let row = |y: usize| image.pixels[y * 8 * 3];
            assert!(row(0) > 250 && row(7) > 250 && row(8) < 5 && row(15) < 5);
        }
    }

    /// A size that no memory holds is refused before it is asked for.
    #[test]
    fn what_is_no_image_is_named() {
        let error = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert!(error(b"version https://git-lfs.github.com/spec/v1\noid").contains("a Git LFS pointer"));
        assert!(error(b"<!DOCTYPE html><title>403").contains("a web page"));
        assert!(error(b"<?xml version='1.0'?><svg width='8'/>").contains("an SVG drawing"));
        assert!(error(b"<!DOCTYPE html><link rel=icon href='data:image/svg+xml,<svg>'>").contains("a web page"));
        assert!(error(b"not found").contains("a text, not an image"));
        assert!(error(b"").contains("empty"));
        let thumbnail = png(GrayImage::new(1, 1));
        assert!(decode(&thumbnail).is_ok());
    }

    #[test]
    fn sizes_are_limited() {
        let mut bytes = png(GrayImage::new(1, 1));
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        assert!(decode(&bytes).is_err());
    }

    const THIRDS: [[u8; 3]; 3] = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];

    fn thirds(width: usize, height: usize, upright: bool) -> Image {
        let colour = |x: usize, y: usize| if upright { THIRDS[y * 3 / height] } else { THIRDS[x * 3 / width] };
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| colour(x, y))).collect();
        Image { width, height, pixels }
    }

    fn pixel(image: &Image, x: usize, y: usize) -> [u8; 3] {
        image.pixels[(y * image.width + x) * 3..][..3].try_into().unwrap()
    }

    #[test]
    fn the_middle_covers_the_size() {
        let size = |text: &str| text.parse::<Size>().unwrap();
        // 4:1, of which the middle 4th is all in the middle third
        for (image, to) in [(thirds(96, 24, false), "12"), (thirds(24, 96, true), "12"), (thirds(96, 24, false), "48")]
        {
            let image = cover(&image, size(to)).unwrap();
            assert!(image.pixels.chunks_exact(3).all(|p| p == THIRDS[1]), "{to}");
        }
        // of 4:1 to 2:1 the middle half: an 8th of it on either side is of the outer thirds, 1/6 of the result
        let image = cover(&thirds(96, 24, false), size("24x12")).unwrap();
        assert_eq!((image.width, image.height), (24, 12));
        for y in [0, 11] {
            let row: Vec<_> = [0, 2, 5, 12, 18, 21, 23].map(|x| pixel(&image, x, y)).into();
            let [red, green, blue] = THIRDS;
            assert_eq!(row, [red, red, green, green, green, blue, blue]);
        }
        // the same shape: all of it
        let whole = thirds(96, 24, false);
        assert_eq!(cover(&whole, size("96x24")).unwrap(), whole);
        let small = cover(&whole, size("12x3")).unwrap();
        assert_eq!([0, 5, 11].map(|x| pixel(&small, x, 1)), THIRDS);
        // sizes at which the shape is less than a pixel
        for (width, height) in [(1, 1), (1, 999), (999, 1), (2, 3)] {
            for to in ["5x3", "3x5", "1x999", "999x1", "1"] {
                let image = cover(&Image { width, height, pixels: vec![9; width * height * 3] }, size(to)).unwrap();
                assert!(image.pixels.iter().all(|&v| v == 9), "{width}x{height} to {to}");
            }
        }
    }

    /// Stripes of one pixel become grey, whatever the phase; taking every 8th pixel would not.
    #[test]
    fn antialiased() {
        let stripes = (0..64 * 64).flat_map(|i| [if i % 2 == 0 { 0 } else { 255 }; 3]).collect();
        let image = cover(&Image { width: 64, height: 64, pixels: stripes }, Size { width: 8, height: 8 }).unwrap();
        assert!(image.pixels.iter().all(|&v| v.abs_diff(128) < 12), "{:?}", &image.pixels[..24]);
    }

    #[test]
    fn sizes_that_are_none() {
        let image = thirds(3, 3, false);
        assert!(cover(&image, Size { width: -1, height: 3 }).is_err());
    }
}
