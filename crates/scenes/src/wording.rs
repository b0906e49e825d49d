//! Descriptions of scenes in text, and parsing of text into demands.

use crate::scene::{Color, Direction, Kind, Object, Scene, Shape, Texture};
use rand::{Rng, seq::SliceRandom};
use serde::Serialize;

/// Objects that a text asks for: a number of one shape, with their colour and texture if the text gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wanted {
    pub count: usize,
    pub shape: Shape,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texture: Option<Texture>,
}

/// Everything that a text asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Demand {
    pub wanted: Vec<Wanted>,
    /// Direction of the first of `wanted` from the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<Direction>,
}

/// Numbers above one that have a word.
const NUMBERS: &[(usize, &str)] = &[(2, "two"), (3, "three")];

impl Wanted {
    pub fn one(shape: Shape, color: Option<Color>, texture: Option<Texture>) -> Self {
        Self { count: 1, shape, color, texture }
    }

    /// Whether an object matches this description.
    pub fn fits(&self, kind: Kind) -> bool {
        self.shape == kind.shape
            && self.color.is_none_or(|c| c == kind.color)
            && self.texture.is_none_or(|t| t == kind.texture)
    }

    /// The one kind that this describes, if the description is complete.
    pub fn kind(&self) -> Option<Kind> {
        Some(Kind { shape: self.shape, color: self.color?, texture: self.texture? })
    }

    pub fn noun(&self) -> &'static str {
        if self.count == 1 { self.shape.word() } else { self.shape.plural() }
    }

    fn words(&self, texture_first: bool) -> String {
        let number = NUMBERS.iter().find(|(n, _)| *n == self.count).map_or("a", |(_, word)| word);
        let mut adjectives = [self.color.map(Color::word), self.texture.map(Texture::word)];
        if texture_first {
            adjectives.reverse();
        }
        let words: Vec<&str> =
            [number].into_iter().chain(adjectives.into_iter().flatten()).chain([self.noun()]).collect();
        words.join(" ")
    }
}

impl Demand {
    /// Number of requested objects.
    pub fn total(&self) -> usize {
        self.wanted.iter().map(|w| w.count).sum()
    }

    /// A random wording of this demand.
    pub fn words(&self, rng: &mut impl Rng) -> String {
        let texture_first = rng.random_bool(0.3);
        let phrases: Vec<String> = self.wanted.iter().map(|w| w.words(texture_first)).collect();
        match (self.relation, phrases.as_slice()) {
            (Some(direction), [a, b]) => {
                // a relation can be stated from either side
                if rng.random_bool(0.5) {
                    format!("{a} {} {b}", direction.words())
                } else {
                    format!("{b} {} {a}", direction.opposite().words())
                }
            }
            (_, [a, b, c]) if rng.random_bool(0.5) => format!("{a} and {b} and {c}"),
            (_, [a, b, c]) => format!("{a}, {b} and {c}"),
            (_, [a, b]) if rng.random_bool(0.15) => format!("{a} next to {b}"),
            (_, phrases) => phrases.join(" and "),
        }
    }

    /// Parses any of the wordings; `None` for a text that is not of this world.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('.').to_lowercase();
        for direction in Direction::ALL {
            if let Some((a, b)) = text.split_once(&format!(" {} ", direction.words())) {
                return Some(Self { wanted: vec![parse_phrase(a)?, parse_phrase(b)?], relation: Some(*direction) });
            }
        }
        let text = text.replace(" next to ", " and ").replace(", ", " and ").replace(" and and ", " and ");
        let wanted = text.split(" and ").map(parse_phrase).collect::<Option<Vec<_>>>()?;
        Some(Self { wanted, relation: None })
    }
}

fn parse_phrase(text: &str) -> Option<Wanted> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (noun, rest) = words.split_last()?;
    let (number, adjectives) = rest.split_first()?;
    let count = match *number {
        "a" | "an" | "one" => 1,
        word => NUMBERS.iter().find(|(_, n)| *n == word)?.0,
    };
    let shape = Shape::ALL.iter().copied().find(|s| *noun == if count == 1 { s.word() } else { s.plural() })?;
    let mut wanted = Wanted { count, shape, color: None, texture: None };
    for word in adjectives {
        match (Color::named(word), Texture::named(word)) {
            (Some(color), _) if wanted.color.is_none() => wanted.color = Some(color),
            (_, Some(texture)) if wanted.texture.is_none() => wanted.texture = Some(texture),
            _ => return None,
        }
    }
    Some(wanted)
}

/// A relation is only stated if the distance on one axis is this many times that on the other.
pub const CLEAR: f32 = 1.3;

/// Probability that a caption states the relation.
const RELATIONS: f64 = 0.4;

/// Which properties of a scene a caption states.
#[derive(Debug, Clone, Copy)]
struct Detail {
    color: bool,
    texture: bool,
    relation: bool,
}

impl Detail {
    /// `relations`: probability that a relation is stated if there is one.
    fn any(relations: f64, rng: &mut impl Rng) -> Self {
        let (color, texture) = match rng.random_range(0..20) {
            0..3 => (false, false),
            3..9 => (true, false),
            9..13 => (false, true),
            _ => (true, true),
        };
        Self { color, texture, relation: rng.random_bool(relations) }
    }
}

/// A true caption of a scene in a random wording: nothing missing, nothing wrong.
pub fn caption(scene: &Scene, rng: &mut impl Rng) -> String {
    caption_with(RELATIONS, scene, rng)
}

/// A true caption; `relations` is the probability that a relation is stated, if there is one.
pub fn caption_with(relations: f64, scene: &Scene, rng: &mut impl Rng) -> String {
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.shuffle(rng);
    let kinds: Vec<Kind> = objects.iter().map(|o| o.kind()).collect();
    let detail = Detail::any(relations, rng);
    let relation = match objects[..] {
        [a, b] if detail.relation => Direction::between(a.center, b.center, CLEAR),
        _ => None,
    };
    demand(&kinds, detail, relation).words(rng)
}

/// Probabilities of the faults of web captions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// There is no caption at all.
    pub absent: f64,
    /// One of several objects is not mentioned.
    pub forgotten: f64,
    /// An object is mentioned that is not there.
    pub invented: f64,
    /// The colours of two objects are swapped.
    pub colors_swapped: f64,
    /// The textures of two objects are swapped.
    pub textures_swapped: f64,
    /// An object is described as a random other one.
    pub mistaken: f64,
    /// A relation is reversed.
    pub reversed: f64,
}

impl Faults {
    /// The captions that the base model of this world is trained on.
    pub const WEB: Self = Self {
        absent: 0.1,
        forgotten: 0.1,
        invented: 0.2,
        colors_swapped: 0.35,
        textures_swapped: 0.35,
        mistaken: 0.05,
        reversed: 0.3,
    };

    /// Every caption is complete and true; one in ten images has none.
    pub const NONE: Self = Self {
        absent: 0.1,
        forgotten: 0.0,
        invented: 0.0,
        colors_swapped: 0.0,
        textures_swapped: 0.0,
        mistaken: 0.0,
        reversed: 0.0,
    };
}

/// A caption like those of the web: `None` for no caption at all, else often incomplete, mixed up or wrong.
pub fn web_caption(faults: &Faults, scene: &Scene, rng: &mut impl Rng) -> Option<String> {
    if rng.random_bool(faults.absent) {
        return None;
    }
    let mut objects: Vec<&Object> = scene.objects.iter().collect();
    objects.shuffle(rng);
    let mut kinds: Vec<Kind> = objects.iter().map(|o| o.kind()).collect();
    let detail = Detail::any(RELATIONS, rng);
    let mut relation = match objects[..] {
        [a, b] if detail.relation => Direction::between(a.center, b.center, CLEAR),
        _ => None,
    };
    if let [a, b, ..] = &mut kinds[..] {
        if rng.random_bool(faults.colors_swapped) {
            std::mem::swap(&mut a.color, &mut b.color);
        }
        if rng.random_bool(faults.textures_swapped) {
            std::mem::swap(&mut a.texture, &mut b.texture);
        }
    }
    if rng.random_bool(faults.mistaken) {
        let one = rng.random_range(0..kinds.len());
        kinds[one] = Kind::any(rng);
    }
    if kinds.len() > 1 && rng.random_bool(faults.forgotten) {
        kinds.pop();
        relation = None;
    }
    if kinds.len() < 3 && rng.random_bool(faults.invented) {
        kinds.push(Kind::any(rng));
        kinds.shuffle(rng);
        // with two objects, one of them is not real, so their relation is random
        relation = (detail.relation && kinds.len() == 2).then(|| Direction::any(rng));
    }
    if rng.random_bool(faults.reversed) {
        relation = relation.map(Direction::opposite);
    }
    Some(demand(&kinds, detail, relation).words(rng))
}

/// The demand that these objects satisfy; equal ones are counted together.
fn demand(kinds: &[Kind], detail: Detail, relation: Option<Direction>) -> Demand {
    let mut wanted: Vec<Wanted> = vec![];
    for kind in kinds {
        let one = Wanted::one(kind.shape, detail.color.then_some(kind.color), detail.texture.then_some(kind.texture));
        match wanted.iter_mut().find(|w| Wanted { count: 1, ..**w } == one) {
            Some(same) => same.count += 1,
            None => wanted.push(one),
        }
    }
    // two objects of the same kind cannot be distinguished, so their relation is not stated
    let relation = relation.filter(|_| wanted.len() == 2);
    Demand { wanted, relation }
}

/// All words that a caption can contain.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words = vec!["a", "and", "next", "to", "the", "of", "left", "right", "above", "below", "photography"];
    words.extend(NUMBERS.iter().map(|(_, word)| *word));
    words.extend(Color::ALL.iter().map(|c| c.word()));
    words.extend(Texture::ALL.iter().map(|t| t.word()));
    words.extend(Shape::ALL.iter().flat_map(|s| [s.word(), s.plural()]));
    words
}
