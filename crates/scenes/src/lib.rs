//! The miniature world: images of one to three shapes, each with a colour and a texture, on a plain ground.
//!
//! [`scene`] describes what is in an image, [`render`] draws it, [`wording`] turns scenes into text (and text into
//! demands), [`prompts`] makes prompts by category, [`staging`] scenes that match them, [`dataset`] folders of images.
//! [`judge`] finds what an image shows and whether that was requested, [`judging`] does so for folders and for runs,
//! [`segmenter`] finds an object's pixels.

pub mod dataset;
pub mod judge;
pub mod judging;
pub mod prompts;
pub mod render;
pub mod scene;
pub mod segmenter;
pub mod staging;
pub mod wording;
