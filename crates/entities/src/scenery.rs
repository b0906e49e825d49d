//! Nouns without an outline.

use crate::Mode;

/// Places, times of day, the weather, the image itself: nouns that no mask can outline.
const SCENERY: &str = "afternoon air area atmosphere backdrop background backyard bathroom beach bedroom bottom center city \
    corner countryside dark darkness dawn day daylight desert distance downtown dusk environment evening field fog foreground \
    forest front garden ground hallway horizon image indoors inside interior kitchen landscape left light middle mist \
    morning night ocean office outdoors outside park photo photograph picture place rain right road room scene \
    scenery sea shade shadow side sidewalk sky snow space street sunlight sunrise sunset surface surroundings top town \
    view wall water weather wind wood woods yard";

/// Nouns that the authors' program leaves out.
const OF_THE_AUTHORS: &str = "about activity advertisement air airport also area atmosphere background bathroom conditions cry cycle \
    day dream environment exterior field grass hillside interior kitchen language lost meadow meal morning mountain mysteries \
    night noise ocean one party place range restroom room salon scene scent sea shadow shore skill sky snow song space speech \
    street sunlight surface thing tone wall water waves";

/// Whether a noun is part of the scene and not an object, in any case. The noun is in the singular. The authors'
/// program also leaves out a word whose form without the last letter is in its list.
pub fn is_scenery(noun: &str, mode: Mode) -> bool {
    let noun = noun.to_lowercase();
    let is_in = |list: &str, noun: &str| list.split_whitespace().any(|word| word == noun);
    match mode {
        Mode::Repaired | Mode::Tags => is_in(SCENERY, &noun),
        Mode::Reference => {
            let shorter = noun.char_indices().next_back().map_or("", |(last, _)| &noun[..last]);
            is_in(OF_THE_AUTHORS, &noun) || is_in(OF_THE_AUTHORS, shorter)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_list() {
        let both = |noun| (is_scenery(noun, Mode::Repaired), is_scenery(noun, Mode::Reference));
        assert_eq!(both("Sky"), (true, true));
        assert_eq!(both("rooms"), (false, true));
        assert_eq!(both("grass"), (false, true));
        assert_eq!(both("sunset"), (true, false));
        assert_eq!((both("dog"), both(""), both("é")), ((false, false), (false, false), (false, false)));
    }
}
