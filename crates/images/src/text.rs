//! Lines of text on images: antialiased, in the program's own font, or in a system font for characters that it lacks.
//! Characters are placed one after the other, which suits Latin, Greek, Cyrillic and Chinese; joined scripts are not
//! joined.

use crate::Image;
use ab_glyph::{Font, FontArc, FontVec, Glyph, GlyphId, PxScale, ScaleFont, point};
use fontdb::Database;
use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
};

/// DejaVu Sans with the characters of Latin, Greek and Cyrillic; `font/README.md` says how it was made.
const DEJAVU: &[u8] = include_bytes!("../font/DejaVuSans-subset.ttf");

/// Line height in pixels, from the highest to the lowest point of any letter.
pub const HEIGHT: usize = 18;
const SCALE: PxScale = PxScale { x: HEIGHT as f32, y: HEIGHT as f32 };

impl Image {
    /// Writes a line of black text, [`HEIGHT`] pixels high, within a width; a longer one ends in "…". A character that no font has
    /// becomes a question mark.
    pub fn label(&mut self, left: usize, top: usize, width: usize, text: &str) {
        let Some(baseline) = FONTS.lock().unwrap_or_else(PoisonError::into_inner).baseline() else { return };
        for Placed { font, glyph, start, .. } in fitted(text, width as f32) {
            let position = point(left as f32 + start, top as f32 + baseline);
            let Some(outline) = font.outline_glyph(Glyph { id: glyph, scale: SCALE, position }) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, coverage| {
                let (x, y) = (corner.x as i64 + i64::from(x), corner.y as i64 + i64::from(y));
                let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
                if (left..self.width.min(left + width)).contains(&x) && y < self.height {
                    let pixel = &mut self.pixels[(y * self.width + x) * 3..][..3];
                    pixel.iter_mut().for_each(|value| *value = (f32::from(*value) * (1.0 - coverage.min(1.0))) as u8);
                }
            });
        }
    }
}

/// How wide a line of text is, in pixels.
pub fn width(text: &str) -> f32 {
    end(&placed(text, 0.0))
}

/// A character on a line.
struct Placed {
    font: FontArc,
    glyph: GlyphId,
    start: f32,
    end: f32,
    is_space: bool,
}

fn end(line: &[Placed]) -> f32 {
    line.last().map_or(0.0, |last| last.end)
}

/// The characters of a line that starts here.
fn placed(text: &str, start: f32) -> Vec<Placed> {
    let mut fonts = FONTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut line = vec![];
    let mut at = start;
    for c in text.chars() {
        let c = if c.is_whitespace() { ' ' } else { c };
        let Some((font, glyph)) = fonts.of(c).or_else(|| fonts.of('?')) else { continue };
        let end = at + font.as_scaled(SCALE).h_advance(glyph);
        line.push(Placed { font, glyph, start: at, end, is_space: c == ' ' });
        at = end;
    }
    line
}

/// A line of at most this width.
fn fitted(text: &str, width: f32) -> Vec<Placed> {
    let mut line = placed(text, 0.0);
    if end(&line) <= width {
        return line;
    }
    let most = width - end(&placed("…", 0.0));
    while line.last().is_some_and(|last| last.end > most || last.is_space) {
        line.pop();
    }
    let dots = placed("…", end(&line));
    line.extend(dots.into_iter().filter(|dots| dots.end <= width));
    line
}

static FONTS: LazyLock<Mutex<Fonts>> = LazyLock::new(|| {
    let own = FontArc::try_from_slice(DEJAVU).ok();
    Mutex::new(Fonts { loaded: own.into_iter().collect(), system: None, lacking: BTreeSet::new() })
});

/// The program's own font and those of the system that were needed.
struct Fonts {
    loaded: Vec<FontArc>,
    /// The system's fonts; loaded when the program's own font lacks a character.
    system: Option<Database>,
    /// Characters that no font has.
    lacking: BTreeSet<char>,
}

impl Fonts {
    /// Baseline of a line, from its top.
    fn baseline(&self) -> Option<f32> {
        Some(self.loaded.first()?.as_scaled(SCALE).ascent().round())
    }

    fn of(&mut self, c: char) -> Option<(FontArc, GlyphId)> {
        if self.lacking.contains(&c) {
            return None;
        }
        let loaded = self.loaded.iter().find_map(|font| Some((font.clone(), glyph(font, c)?)));
        let found = loaded.or_else(|| self.of_system(c));
        if found.is_none() {
            self.lacking.insert(c);
        }
        found
    }

    /// Looks for the character in the system's fonts; upright ones of normal weight come first.
    fn of_system(&mut self, c: char) -> Option<(FontArc, GlyphId)> {
        let system = self.system.get_or_insert_with(|| {
            let mut system = Database::new();
            system.load_system_fonts();
            system
        });
        let mut faces: Vec<_> = system.faces().collect();
        faces.sort_by_key(|face| {
            (face.style != fontdb::Style::Normal, face.weight.0.abs_diff(400), &face.post_script_name)
        });
        let found = faces.into_iter().find_map(|face| {
            system.with_face_data(face.id, |data, index| {
                let found = ab_glyph::FontRef::try_from_slice_and_index(data, index).ok()?;
                let glyph = glyph(&found, c)?;
                Some((FontArc::new(FontVec::try_from_vec_and_index(data.to_vec(), index).ok()?), glyph))
            })?
        })?;
        self.loaded.push(found.0.clone());
        Some(found)
    }
}

/// The glyph of a character; `None` if the font lacks it or has no outline for it, as fonts of coloured pixels.
fn glyph(font: &impl Font, c: char) -> Option<GlyphId> {
    let glyph = font.glyph_id(c);
    (glyph.0 != 0 && (c == ' ' || font.outline(glyph).is_some())).then_some(glyph)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(width: usize, text: &str) -> Image {
        let mut image = Image::white(200, 20);
        image.label(8, 1, width, text);
        image
    }

    /// Columns with something in them.
    fn columns(image: &Image) -> Vec<usize> {
        let has_ink = |x: &usize| (0..image.height).any(|y| image.pixels[(y * image.width + x) * 3] < 255);
        (0..image.width).filter(has_ink).collect()
    }

    #[test]
    fn scripts_are_written() {
        let unknown = written(100, "???");
        for text in ["ÄÖŁ", "Жук", "αβΩ", "dog", "ấệữ"] {
            let image = written(100, text);
            assert!(image != unknown, "{text}");
            assert!(image != Image::white(200, 20), "{text}");
            let greys = image.pixels.iter().filter(|value| (40..220).contains(*value)).count();
            assert!(greys > 10, "{text}: {greys} pixels at the edges of the letters");
        }
        assert!(written(100, "a\u{10fffe}") == written(100, "a?"), "a character that no font has");
        assert!(written(100, "a\nb\tc") == written(100, "a b c"));
    }

    #[test]
    fn widths_are_respected() {
        let text = "a lighthouse above the village";
        assert!(width(text) > 150.0 && width("iii") < width("mmm") && width("") == 0.0);
        for most in [3, 20, 40, 75, 150] {
            let columns = columns(&written(most, text));
            assert!(columns.iter().all(|x| (8..8 + most).contains(x)), "{most}: {columns:?}");
        }
        assert!(columns(&written(3, text)).is_empty(), "there is no room for anything");
        let whole = width("a light").ceil() as usize;
        assert!(written(whole, "a light") == written(190, "a light"));
        let mut prefixes = (0..text.len()).map(|n| format!("{}…", text[..n].trim_end()));
        let longest = prefixes.rfind(|cut| width(cut) <= 60.0).unwrap();
        assert!(written(60, text) == written(190, &longest), "{longest}");
        let cut = fitted("a bcd", width("a…"));
        assert_eq!(end(&cut), width("a…"), "no space before the dots");
    }

    #[test]
    fn writing_stays_on_the_image() {
        let mut image = Image::white(40, 20);
        image.label(30, 15, 99, "out of the image");
        image.label(50, 30, 99, "out of the image");
    }
}
