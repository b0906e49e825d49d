//! Nouns without an outline.

/// Places, times of day, the weather, the picture itself: nothing that a mask could be drawn around.
const SCENERY: &str = "afternoon air area atmosphere backdrop background backyard bathroom beach bedroom bottom center city \
    corner countryside dark darkness dawn day daylight desert distance downtown dusk environment evening field fog foreground \
    forest front garden ground hallway horizon image indoors inside interior kitchen landscape left light middle mist \
    morning night ocean office outdoors outside park photo photograph picture place rain right road room scene \
    scenery sea shade shadow side sidewalk sky snow space street sunlight sunrise sunset surface surroundings top town \
    view wall water weather wind wood woods yard";

/// Whether a noun is of the scene, not a thing in it. Singular, in any case of letters.
pub fn is_scenery(noun: &str) -> bool {
    let noun = noun.to_lowercase();
    SCENERY.split_whitespace().any(|word| word == noun)
}
