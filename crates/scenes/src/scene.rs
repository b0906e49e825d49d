//! Scenes: the contents of an image.

use rand::Rng;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Width and height of an image in pixels.
pub const SIDE: usize = 64;

/// Defines an enum of words: its variants in order, each with its word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($variant),* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.word() == word)
            }

            /// A random variant; all are equally likely.
            pub fn any(rng: &mut impl Rng) -> Self {
                Self::ALL[rng.random_range(0..Self::ALL.len())]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words!(Shape { Circle = "circle", Square = "square", Triangle = "triangle", Star = "star", Heart = "heart", Cross = "cross" });
words!(Color { Red = "red", Yellow = "yellow", Green = "green", Blue = "blue", Purple = "purple", Black = "black" });
words!(
    /// The inside of a shape: one colour, or diagonal stripes in a lighter tint.
    Texture { Solid = "solid", Striped = "striped" }
);

impl Shape {
    /// The shape that a noun names, in singular or plural.
    pub fn of_noun(noun: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| noun == s.word() || noun == s.plural())
    }

    pub fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Heart => "hearts",
            Self::Cross => "crosses",
        }
    }
}

impl Color {
    /// Red, green and blue, 0 to 1.
    pub fn rgb(self) -> [f32; 3] {
        let [r, g, b] = match self {
            Self::Red => [220, 38, 38],
            Self::Yellow => [240, 200, 20],
            Self::Green => [30, 160, 60],
            Self::Blue => [40, 80, 225],
            Self::Purple => [155, 50, 190],
            Self::Black => [25, 25, 28],
        };
        [r, g, b].map(|v: u8| f32::from(v) / 255.0)
    }

    /// The lighter tint of stripes: this share of the way from the colour to white.
    pub const TINT: f32 = 0.58;

    pub fn tint(self) -> [f32; 3] {
        lighter(self.rgb(), Self::TINT)
    }
}

/// The colour on the way from one to white; `share` 0: the colour, 1: white.
pub fn lighter(color: [f32; 3], share: f32) -> [f32; 3] {
    color.map(|v| v + (1.0 - v) * share)
}

/// The relative position of two objects: the first … the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Left,
    Right,
    Above,
    Below,
}

impl Direction {
    pub const ALL: &[Self] = &[Self::Left, Self::Right, Self::Above, Self::Below];

    /// A random direction; all are equally likely.
    pub fn any(rng: &mut impl Rng) -> Self {
        Self::ALL[rng.random_range(0..Self::ALL.len())]
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Left => "to the left of",
            Self::Right => "to the right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }

    pub fn opposite(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// The direction of `a` from `b`, along the axis on which they are further apart; `None` if the distances on both
    /// axes are within a factor of `clear` of each other.
    pub fn between(a: (f32, f32), b: (f32, f32), clear: f32) -> Option<Self> {
        let (dx, dy) = (a.0 - b.0, a.1 - b.1);
        if dx.abs() > clear * dy.abs() {
            Some(if dx < 0.0 { Self::Left } else { Self::Right })
        } else if dy.abs() > clear * dx.abs() {
            Some(if dy < 0.0 { Self::Above } else { Self::Below })
        } else {
            None
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    pub shape: Shape,
    pub color: Color,
    pub texture: Texture,
    /// Centre in pixels, from the left and from the top.
    pub center: (f32, f32),
    /// Radius in pixels; [`crate::render::contains`] defines it for each shape.
    pub radius: f32,
    /// Origin of the texture, in pixels.
    pub phase: (f32, f32),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Colour of the ground, light and nearly grey.
    pub ground: [f32; 3],
    pub objects: Vec<Object>,
}

/// The given properties of an object; all others are drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub shape: Shape,
    pub color: Color,
    pub texture: Texture,
}

impl Kind {
    pub fn any(rng: &mut impl Rng) -> Self {
        Self { shape: Shape::any(rng), color: Color::any(rng), texture: Texture::any(rng) }
    }

    /// Every sixth combination is held out from all training prompts, so that generalisation can be tested on it. Each
    /// shape, colour and texture, and each pair of them, occurs in training.
    pub fn is_held_out(self) -> bool {
        (self.shape as usize + self.color as usize + 2 * self.texture as usize).is_multiple_of(6)
    }
}

/// The width kept free of other objects is twice this times the radius.
const REACH: f32 = 1.2;
/// Smallest distance to the edge of the image and between objects, in pixels.
const GAP: f32 = 2.0;

impl Scene {
    /// Places objects of these kinds at random; none touches another or the edge.
    pub fn place(kinds: &[Kind], rng: &mut impl Rng) -> Self {
        let light = rng.random_range(0.88..0.97);
        let ground = std::array::from_fn(|_| light + rng.random_range(-0.02..0.02));
        let largest = if kinds.len() > 2 { 11.5 } else { 13.5 };
        loop {
            let mut objects: Vec<Object> = vec![];
            for kind in kinds {
                // if there is no free place, all objects are placed anew
                for _ in 0..40 {
                    let object = Object::anywhere(*kind, largest, rng);
                    if objects.iter().all(|o| o.is_clear_of(&object)) {
                        objects.push(object);
                        break;
                    }
                }
            }
            if objects.len() == kinds.len() {
                return Self { ground, objects };
            }
        }
    }

    /// Another object in a free place, if one is found within a few tries.
    pub fn room_for(&self, kind: Kind, rng: &mut impl Rng) -> Option<Object> {
        (0..40)
            .map(|_| Object::anywhere(kind, 11.5, rng))
            .find(|o| self.objects.iter().all(|other| other.is_clear_of(o)))
    }

    /// A random scene with one or two objects, in every eighth image three; in every sixth image with several, two are
    /// the same.
    pub fn any(rng: &mut impl Rng) -> Self {
        let count = match rng.random_range(0..8) {
            0..2 => 1,
            2..7 => 2,
            _ => 3,
        };
        let mut kinds: Vec<Kind> = (0..count).map(|_| Kind::any(rng)).collect();
        if count > 1 && rng.random_bool(1.0 / 6.0) {
            kinds[1] = kinds[0];
        }
        Self::place(&kinds, rng)
    }
}

impl Object {
    pub fn kind(&self) -> Kind {
        Kind { shape: self.shape, color: self.color, texture: self.texture }
    }

    fn anywhere(kind: Kind, largest: f32, rng: &mut impl Rng) -> Self {
        let radius: f32 = rng.random_range(9.0..largest);
        let margin = REACH * radius + GAP;
        let mut along = || rng.random_range(margin..SIDE as f32 - margin);
        let center = (along(), along());
        let phase = (rng.random_range(0.0..8.0), rng.random_range(0.0..8.0));
        Self { shape: kind.shape, color: kind.color, texture: kind.texture, center, radius, phase }
    }

    fn is_clear_of(&self, other: &Self) -> bool {
        let (dx, dy) = (self.center.0 - other.center.0, self.center.1 - other.center.1);
        dx.hypot(dy) > REACH * (self.radius + other.radius) + GAP
    }
}
