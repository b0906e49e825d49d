//! Scenes in words, and words as demands on a scene.

use crate::scene::{Color, Direction, Kind, Object, Scene, Shape, Texture};
use rand::{Rng, seq::SliceRandom};
use serde::Serialize;

/// Objects that a text asks for: so many of a shape, with what it says of their colour and texture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wanted {
    pub count: usize,
    pub shape: Shape,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texture: Option<Texture>,
}

/// What a text asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Demand {
    pub wanted: Vec<Wanted>,
    /// Where the first of `wanted` lies from the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<Direction>,
}

/// Numbers above one that have a word.
const NUMBERS: &[(usize, &str)] = &[(2, "two"), (3, "three")];

impl Wanted {
    pub fn one(shape: Shape, color: Option<Color>, texture: Option<Texture>) -> Self {
        Self { count: 1, shape, color, texture }
    }

    /// Whether an object is of this description.
    pub fn fits(&self, kind: Kind) -> bool {
        self.shape == kind.shape
            && self.color.is_none_or(|c| c == kind.color)
            && self.texture.is_none_or(|t| t == kind.texture)
    }

    /// The one kind that this describes, when it says everything.
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
    /// How many objects are asked for.
    pub fn total(&self) -> usize {
        self.wanted.iter().map(|w| w.count).sum()
    }

    /// One of the wordings of this demand.
    pub fn words(&self, rng: &mut impl Rng) -> String {
        let texture_first = rng.random_bool(0.3);
        let phrases: Vec<String> = self.wanted.iter().map(|w| w.words(texture_first)).collect();
        match (self.relation, phrases.as_slice()) {
            (Some(direction), [a, b]) => {
                // the same fact can be told from either side
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

    /// Reads any of the wordings; `None` for a text that is not of this world.
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

/// A relation is only told where one axis is this much longer than the other.
pub const CLEAR: f32 = 1.3;

/// How often a caption tells it.
const RELATIONS: f64 = 0.4;

/// What is told of a scene.
#[derive(Debug, Clone, Copy)]
struct Detail {
    color: bool,
    texture: bool,
    relation: bool,
}

impl Detail {
    /// `relations` is how often a relation is told where there is one.
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

/// A true caption of a scene: nothing missing, nothing wrong, in one of many wordings.
pub fn caption(scene: &Scene, rng: &mut impl Rng) -> String {
    caption_with(RELATIONS, scene, rng)
}

/// A true caption that tells a relation so often, where there is one.
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

/// How often a caption of the web is wrong, and in what way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// There is no caption at all.
    pub absent: f64,
    /// Of several objects, one is not told.
    pub forgotten: f64,
    /// An object is told that is not there.
    pub invented: f64,
    /// Two objects' colours change places.
    pub colors_swapped: f64,
    /// Two objects' textures change places.
    pub textures_swapped: f64,
    /// An object is told as any other.
    pub mistaken: f64,
    /// A relation is told the wrong way round.
    pub reversed: f64,
}

impl Faults {
    /// What the base model of this world learns from.
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

/// A caption as the web has them: `None` for no caption at all, else often incomplete, mixed up or wrong.
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
        // of one object, the other one is told to lie somewhere
        relation = (detail.relation && kinds.len() == 2).then(|| Direction::any(rng));
    }
    if rng.random_bool(faults.reversed) {
        relation = relation.map(Direction::opposite);
    }
    Some(demand(&kinds, detail, relation).words(rng))
}

/// The demand that these objects meet, like ones counted together.
fn demand(kinds: &[Kind], detail: Detail, relation: Option<Direction>) -> Demand {
    let mut wanted: Vec<Wanted> = vec![];
    for kind in kinds {
        let one = Wanted::one(kind.shape, detail.color.then_some(kind.color), detail.texture.then_some(kind.texture));
        match wanted.iter_mut().find(|w| Wanted { count: 1, ..**w } == one) {
            Some(same) => same.count += 1,
            None => wanted.push(one),
        }
    }
    // two of a kind cannot be told apart, so nothing is said of how they lie
    let relation = relation.filter(|_| wanted.len() == 2);
    Demand { wanted, relation }
}

/// Every word that a caption can hold.
pub fn vocabulary() -> Vec<&'static str> {
    let mut words = vec!["a", "and", "next", "to", "the", "of", "left", "right", "above", "below", "photography"];
    words.extend(NUMBERS.iter().map(|(_, word)| *word));
    words.extend(Color::ALL.iter().map(|c| c.word()));
    words.extend(Texture::ALL.iter().map(|t| t.word()));
    words.extend(Shape::ALL.iter().flat_map(|s| [s.word(), s.plural()]));
    words
}
