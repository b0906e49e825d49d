//! Makes scenes that match a demand.

use crate::{
    scene::{Color, Direction, Kind, Scene, Texture},
    wording::{CLEAR, Demand},
};
use rand::Rng;

/// Largest number of objects; for more there is rarely enough space.
const MOST: usize = 4;
const ATTEMPTS: usize = 500;

/// A scene with exactly what is requested; properties that are not given are drawn at random. A relation is clear
/// enough for captions to state it. `None` if the demand is empty, has too many objects, or is impossible.
pub fn scene_for(demand: &Demand, rng: &mut impl Rng) -> Option<Scene> {
    if demand.total() == 0 || demand.total() > MOST {
        return None;
    }
    (0..ATTEMPTS).find_map(|_| {
        let kinds: Vec<Kind> = demand
            .wanted
            .iter()
            .flat_map(|w| std::iter::repeat_n(w, w.count))
            .map(|w| Kind {
                shape: w.shape,
                color: w.color.unwrap_or_else(|| Color::any(rng)),
                texture: w.texture.unwrap_or_else(|| Texture::any(rng)),
            })
            .collect();
        let scene = Scene::place(&kinds, rng);
        lies_as_asked(demand, &scene).then_some(scene)
    })
}

/// Whether each object of the first kind lies in the requested direction from each of the second. Objects are in the
/// order of the demand.
fn lies_as_asked(demand: &Demand, scene: &Scene) -> bool {
    let (Some(direction), [first, second, ..]) = (demand.relation, demand.wanted.as_slice()) else { return true };
    let (firsts, rest) = scene.objects.split_at(first.count);
    let clearly = |a: (f32, f32), b: (f32, f32)| Direction::between(a, b, CLEAR) == Some(direction);
    firsts.iter().all(|a| rest[..second.count].iter().all(|b| clearly(a.center, b.center)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{self, Split};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn scenes_are_what_was_asked_for() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for prompt in prompts::make(Split::Train, 200, 1) {
            let demand = Demand::parse(&prompt.prompt).unwrap();
            let scene = scene_for(&demand, &mut rng).unwrap_or_else(|| panic!("no scene for `{}`", prompt.prompt));
            assert_eq!(scene.objects.len(), demand.total());
            let mut objects = scene.objects.iter();
            for wanted in &demand.wanted {
                for object in objects.by_ref().take(wanted.count) {
                    assert!(wanted.fits(object.kind()), "{}: {object:?}", prompt.prompt);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut scene = |text| scene_for(&Demand::parse(text).unwrap(), &mut rng);
        assert!(scene("three red stars and three hearts").is_none());
        assert!(scene("two circles above two squares").is_none(), "each above each, and clearly: there is no room");
        assert!(scene("two circles and two squares").is_some_and(|s| s.objects.len() == 4));
    }
}
