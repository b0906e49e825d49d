//! The miniature world: pictures of one to three shapes, each with a colour and a texture, on a plain ground.
//!
//! [`scene`] says what is in a picture, [`render`] draws it, [`wording`] puts it into words (and words into demands),
//! [`prompts`] makes prompts by category. Only [`pretrain`] knows of
//! networks.

pub mod estimate;
pub mod judge;
pub mod judging;
pub mod pretrain;
pub mod prompts;
pub mod render;
pub mod scene;
pub mod scores;
pub mod wording;
