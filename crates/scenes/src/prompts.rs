//! Prompts by category, for training and for testing.

use crate::{
    scene::{Color, Direction, Kind, Shape, Texture},
    wording::{Demand, Wanted},
};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// The categories of T2I-CompBench that apply to this world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Two objects, each with its colour.
    Color,
    /// Two objects by their shape, the same or different, in one colour or without colour.
    Shape,
    /// Two objects, each with its texture.
    Texture,
    /// The relative position of two objects.
    Spatial,
    /// Colour and texture together, of two or three objects.
    Complex,
}

impl Category {
    pub const ALL: &[Self] = &[Self::Color, Self::Shape, Self::Texture, Self::Spatial, Self::Complex];

    /// The categories that prompts are made from. `Spatial` is left out, since the captioner of this world cannot
    /// recognise positions.
    pub const ASKED: &[Self] = &[Self::Color, Self::Shape, Self::Texture, Self::Complex];

    pub fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Texture => "texture",
            Self::Spatial => "spatial",
            Self::Complex => "complex",
        }
    }

    /// Draws a demand of this category.
    pub fn demand(self, rng: &mut impl Rng) -> Demand {
        let shapes = different(Shape::ALL, rng);
        let colors = different(Color::ALL, rng);
        let textures = mixed_textures(rng);
        let wanted = |count, color: bool, texture: bool| -> Vec<Wanted> {
            (0..count)
                .map(|i| Wanted::one(shapes[i], color.then_some(colors[i]), texture.then_some(textures[i])))
                .collect()
        };
        let relation = Some(Direction::any(rng));
        match self {
            Category::Color => Demand { wanted: wanted(2, true, false), relation: None },
            Category::Texture => Demand { wanted: wanted(2, false, true), relation: None },
            Category::Shape => {
                let color = rng.random_bool(0.7).then_some(colors[0]); // there are too few ways to name shapes alone
                let mut wanted = wanted(rng.random_range(1..=2), false, false);
                wanted.iter_mut().for_each(|w| w.color = color);
                if let [one] = &mut wanted[..] {
                    one.count = 2;
                }
                Demand { wanted, relation: None }
            }
            Category::Spatial => Demand { wanted: wanted(2, rng.random_bool(0.75), false), relation },
            Category::Complex => {
                let count = if rng.random_bool(0.3) { 3 } else { 2 };
                Demand { wanted: wanted(count, true, true), relation: None }
            }
        }
    }

    /// The category of a demand: by relation first, then by textures, then by colours.
    pub fn of(demand: &Demand) -> Self {
        let any = |test: fn(&Wanted) -> bool| demand.wanted.iter().any(test);
        let colors: BTreeSet<Color> = demand.wanted.iter().filter_map(|w| w.color).collect();
        if any(|w| w.color.is_some() && w.texture.is_some()) {
            Self::Complex
        } else if demand.relation.is_some() {
            Self::Spatial
        } else if any(|w| w.texture.is_some()) {
            Self::Texture
        } else if colors.len() > 1 {
            Self::Color
        } else {
            Self::Shape
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Category {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|c| c.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|c| c.name()).collect();
            format!("`{text}` is not one of {}", names.join(", "))
        })
    }
}

/// The set that prompts belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training: no held-out combination of shape, colour and texture.
    Train,
    /// For testing: no text of the other set; if a prompt describes any object completely, one of these is a held-out
    /// combination.
    HeldOut,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub prompt: String,
    pub category: Category,
    pub entities: Vec<Entity>,
}

/// Words that belong together: a noun and its adjectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    pub noun: String,
    pub attributes: Vec<String>,
}

impl From<&Wanted> for Entity {
    fn from(wanted: &Wanted) -> Self {
        let attributes = [wanted.color.map(Color::word), wanted.texture.map(Texture::word)];
        Self {
            noun: wanted.noun().to_owned(),
            attributes: attributes.into_iter().flatten().map(str::to_owned).collect(),
        }
    }
}

/// After this many draws without a new prompt, all prompts of a category are assumed to be found.
const PATIENCE: usize = 20_000;

/// Makes `count` different prompts, from the categories in turn, or fewer if there are no more. The same seed gives the
/// same prompts.
pub fn make(split: Split, count: usize, seed: u64) -> Vec<Prompt> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = BTreeSet::new();
    let mut prompts = vec![];
    let mut categories = Category::ASKED.to_vec();
    while prompts.len() < count && !categories.is_empty() {
        let category = categories[prompts.len() % categories.len()];
        let new = (0..PATIENCE).find_map(|_| {
            let demand = category.demand(&mut rng);
            let prompt = demand.words(&mut rng);
            (belongs(&demand, &prompt, split) && seen.insert(prompt.clone())).then(|| Prompt {
                prompt,
                category,
                entities: demand.wanted.iter().map(Entity::from).collect(),
            })
        });
        match new {
            Some(prompt) => prompts.push(prompt),
            None => categories.retain(|c| *c != category),
        }
    }
    prompts
}

/// Whether a prompt belongs to a set: decided by the combinations of objects that are described completely; if there
/// are none, by the text.
fn belongs(demand: &Demand, prompt: &str, split: Split) -> bool {
    let kinds: Vec<Kind> = demand.wanted.iter().filter_map(Wanted::kind).collect();
    let held_out =
        if kinds.is_empty() { hash(prompt).is_multiple_of(4) } else { kinds.iter().any(|k| k.is_held_out()) };
    held_out == (split == Split::HeldOut)
}

/// FNV-1a hash.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Three textures, of which the first two are seldom the same.
fn mixed_textures(rng: &mut impl Rng) -> [Texture; 3] {
    let two = different(Texture::ALL, rng);
    let second = if rng.random_bool(0.2) { two[0] } else { two[1] };
    [two[0], second, Texture::any(rng)]
}

fn different<T: Copy>(all: &[T], rng: &mut impl Rng) -> Vec<T> {
    let mut all = all.to_vec();
    all.shuffle(rng);
    all
}
