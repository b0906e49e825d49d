//! What a picture shows, found from its pixels alone, and whether that is what its prompt asks for.

use crate::scene::{Color, Shape, Texture};
use serde::{Deserialize, Serialize};

/// A connected thing in a picture. What cannot be told for certain is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub shape: Option<Shape>,
    pub color: Option<Color>,
    pub texture: Option<Texture>,
    /// Centre in pixels, from the left and from the top.
    pub center: (f32, f32),
    /// Pixels that it covers.
    pub area: usize,
}

/// Everything in a picture.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Look {
    pub found: Vec<Found>,
    /// Specks too small to be an object.
    pub specks: usize,
    /// How far a pixel is, on average over the picture, from what the ground and the found objects explain: 0 for a
    /// render, in units where white and black are 1 apart. Noise, smears and a tinted ground raise it.
    pub unexplained: f32,
}

/// How a picture answers its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Objects that were asked for.
    pub wanted: usize,
    /// Of them, those of which there is one of the right shape.
    pub present: usize,
    /// Of them, those of which there is one with all the right attributes.
    pub bound: usize,
    /// Whether the objects lie as asked; `None` where nothing was asked.
    pub relation: Option<bool>,
    /// Things beyond those that were asked for.
    pub extra: usize,
    /// Whether everything in the picture is a whole object of this world.
    pub clean: bool,
    /// All of it: every object with its attributes, lying as asked, and nothing else.
    pub correct: bool,
}
