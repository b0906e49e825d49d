//! Compares what an image shows with its prompt.

use super::{Found, Look, Verdict};
use crate::{
    scene::Direction,
    wording::{Demand, Wanted},
};

/// A thing is to the left of another if its horizontal distance is larger than the vertical one, as people would read
/// the image. Captions of scenes state a relation only if it is clearer than that.
const CLEAR: f32 = 1.0;

/// Matches each thing with at most one of the requested objects, so that as many of them as possible are satisfied.
pub fn verdict(demand: &Demand, look: &Look) -> Verdict {
    let wanted: Vec<&Wanted> = demand.wanted.iter().flat_map(|w| std::iter::repeat_n(w, w.count)).collect();
    let most = |answers: fn(&Wanted, &Found) -> bool| {
        let candidates: Vec<Vec<usize>> =
            wanted.iter().map(|w| (0..look.found.len()).filter(|i| answers(w, &look.found[*i])).collect()).collect();
        matching(&candidates, look.found.len())
    };
    let (present, bound) = (most(has_shape), most(fits));
    let relation = demand.relation.map(|direction| lies(demand, direction, look));
    let extra = look.found.len() - present;
    let clean = look.found.iter().all(Found::is_whole) && look.specks == 0 && look.unexplained <= Look::CLEAN;
    let correct = bound == wanted.len() && relation != Some(false) && extra == 0 && clean;
    Verdict { wanted: wanted.len(), present, bound, relation, extra, clean, correct }
}

/// Whether two objects have each other's colours, or textures. `None`: the prompt does not ask for one each of two shapes
/// that differ in them. An image that has both as they should be, besides others, does not count.
pub fn swapped(demand: &Demand, look: &Look) -> Option<bool> {
    let [first, second] = demand.wanted.as_slice() else { return None };
    if first.count > 1 || second.count > 1 || first.shape == second.shape {
        return None;
    }
    let found = [first, second].map(|wanted| look.found.iter().find(|found| has_shape(wanted, found)));
    let colors = exchanged([first.color, second.color], found.map(|found| found?.color));
    let textures = exchanged([first.texture, second.texture], found.map(|found| found?.texture));
    match (colors, textures) {
        (None, None) => None,
        (colors, textures) => {
            let both = demand.wanted.iter().all(|wanted| look.found.iter().any(|found| fits(wanted, found)));
            Some(!both && (colors == Some(true) || textures == Some(true)))
        }
    }
}

/// `None`: two different ones are not asked for.
fn exchanged<T: PartialEq>(wanted: [Option<T>; 2], found: [Option<T>; 2]) -> Option<bool> {
    let ([Some(a), Some(b)], [first, second]) = (wanted, found) else { return None };
    (a != b).then(|| first == Some(b) && second == Some(a))
}

fn has_shape(wanted: &Wanted, found: &Found) -> bool {
    found.shape == Some(wanted.shape)
}

/// Whether a thing matches; properties that were not requested may be unknown.
fn fits(wanted: &Wanted, found: &Found) -> bool {
    has_shape(wanted, found)
        && wanted.color.is_none_or(|c| found.color == Some(c))
        && wanted.texture.is_none_or(|t| found.texture == Some(t))
}

/// Whether objects of the first kind lie in a direction from those of the second. If no thing has all attributes of a
/// kind, things of its shape are used. If one of each is requested, one pair in that direction is enough; otherwise all
/// pairs must be.
fn lies(demand: &Demand, direction: Direction, look: &Look) -> bool {
    let [first, second, ..] = demand.wanted.as_slice() else { return false };
    let those = |wanted: &Wanted| -> Vec<usize> {
        let of = |answers: fn(&Wanted, &Found) -> bool| -> Vec<usize> {
            (0..look.found.len()).filter(|i| answers(wanted, &look.found[*i])).collect()
        };
        let exact = of(fits);
        if exact.is_empty() { of(has_shape) } else { exact }
    };
    let (first_ones, second_ones) = (those(first), those(second));
    let mut pairs = first_ones.iter().flat_map(|a| second_ones.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
    let so = |(a, b): (usize, usize)| {
        Direction::between(look.found[a].center, look.found[b].center, CLEAR) == Some(direction)
    };
    if first.count == 1 && second.count == 1 {
        pairs.any(so)
    } else {
        let mut pairs = pairs.peekable();
        pairs.peek().is_some() && pairs.all(so)
    }
}

/// The largest number of objects that can each be assigned a candidate of its own.
fn matching(candidates: &[Vec<usize>], count: usize) -> usize {
    fn serve(one: usize, candidates: &[Vec<usize>], taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
        for &candidate in &candidates[one] {
            if std::mem::replace(&mut tried[candidate], true) {
                continue;
            }
            if taken[candidate].is_none_or(|other| serve(other, candidates, taken, tried)) {
                taken[candidate] = Some(one);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; count];
    (0..candidates.len()).filter(|one| serve(*one, candidates, &mut taken, &mut vec![false; count])).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Color, Shape, Texture};

    fn thing(shape: Shape, color: Color, texture: Texture, center: (f32, f32)) -> Found {
        Found { shape: Some(shape), color: Some(color), texture: Some(texture), center, area: 300 }
    }

    fn judged(text: &str, found: &[Found]) -> Verdict {
        verdict(&Demand::parse(text).unwrap(), &Look { found: found.to_vec(), specks: 0, unexplained: 0.0 })
    }

    /// The only red circle must not be assigned to `a circle`.
    #[test]
    fn things_go_where_they_are_needed() {
        let red = thing(Shape::Circle, Color::Red, Texture::Solid, (10.0, 10.0));
        let blue = Found { color: Some(Color::Blue), ..red.clone() };
        for found in [[red.clone(), blue.clone()], [blue.clone(), red]] {
            assert!(judged("a circle and a red circle", &found).correct);
            let verdict = judged("a red circle and a green circle", &found);
            assert_eq!((verdict.wanted, verdict.present, verdict.bound), (2, 2, 1));
        }
        assert!(judged("two blue circles", &[blue.clone(), blue.clone()]).correct);
        let verdict = judged("two blue circles", &[blue.clone(), blue.clone(), blue]);
        assert_eq!((verdict.bound, verdict.extra, verdict.correct), (2, 1, false));
    }

    #[test]
    fn attributes_that_changed_places() {
        let found = [
            thing(Shape::Circle, Color::Red, Texture::Solid, (15.0, 30.0)),
            thing(Shape::Star, Color::Blue, Texture::Striped, (45.0, 38.0)),
        ];
        let swapped = |text: &str, found: &[Found]| {
            let look = Look { found: found.to_vec(), specks: 0, unexplained: 0.0 };
            super::swapped(&Demand::parse(text).unwrap(), &look)
        };
        for (text, so) in [
            ("a blue circle and a red star", Some(true)),
            ("a red circle and a blue star", Some(false)),
            ("a green circle and a red star", Some(false)),
            ("a striped circle and a solid star", Some(true)),
            ("a red striped circle and a blue solid star", Some(true)),
            ("a blue striped circle and a red striped star", Some(true)),
            ("a blue heart and a red star", Some(false)),
            ("a red circle and a red star", None),
            ("a blue circle and a star", None),
            ("a blue circle and a red circle", None),
            ("two blue circles and a red star", None),
            ("a blue circle", None),
        ] {
            assert_eq!(swapped(text, &found), so, "{text}");
        }
        let more = [
            found.as_slice(),
            &[
                thing(Shape::Circle, Color::Blue, Texture::Solid, (32.0, 50.0)),
                thing(Shape::Star, Color::Red, Texture::Solid, (10.0, 10.0)),
            ],
        ]
        .concat();
        assert_eq!(swapped("a blue circle and a red star", &found), Some(true));
        assert_eq!(swapped("a blue circle and a red star", &more), Some(false), "both are there, too");
        let unknown = Found { color: None, ..found[0].clone() };
        assert_eq!(swapped("a blue circle and a red star", &[unknown, found[1].clone()]), Some(false));
    }

    #[test]
    fn relations() {
        let left = thing(Shape::Circle, Color::Red, Texture::Solid, (15.0, 30.0));
        let right = thing(Shape::Star, Color::Blue, Texture::Solid, (45.0, 38.0));
        let relation = |text| judged(text, &[left.clone(), right.clone()]).relation;
        assert_eq!(relation("a circle to the left of a star"), Some(true));
        assert_eq!(relation("a star to the right of a circle"), Some(true));
        assert_eq!(relation("a star to the left of a circle"), Some(false));
        assert_eq!(relation("a circle above a star"), Some(false));
        assert_eq!(relation("a circle and a star"), None);
        assert_eq!(relation("a circle to the left of a heart"), Some(false));
        assert_eq!(relation("a green circle to the left of a star"), Some(true), "where it lies is not its colour");
    }

    #[test]
    fn what_is_unknown_is_not_right() {
        let whole = thing(Shape::Circle, Color::Red, Texture::Solid, (15.0, 30.0));
        let faint = Found { color: None, texture: None, ..whole.clone() };
        let verdict = judged("a circle", std::slice::from_ref(&faint));
        assert_eq!((verdict.bound, verdict.clean, verdict.correct), (1, false, false));
        assert_eq!(judged("a red circle", &[faint]).bound, 0);
        let demand = Demand::parse("a red circle").unwrap();
        let look = Look { found: vec![whole], specks: 0, unexplained: 0.0 };
        assert!(verdict_of(&demand, &look));
        assert!(!verdict_of(&demand, &Look { specks: 1, ..look.clone() }));
        assert!(!verdict_of(&demand, &Look { unexplained: 0.1, ..look }));
    }

    fn verdict_of(demand: &Demand, look: &Look) -> bool {
        super::verdict(demand, look).correct
    }
}
