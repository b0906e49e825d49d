//! The miniature world: images of one to three shapes, each with a colour and a texture, on a plain ground.
//!
//! [`scene`] says what is in an image, [`render`] draws it, [`wording`] puts it into words (and words into demands), [`prompts`] makes
//! prompts by category, [`staging`] scenes that meet them, [`dataset`] folders of images. [`judge`] says what an image shows and
//! whether that is what was asked for, [`judging`] does so for folders and for runs, [`segmenter`] finds an object's pixels.

pub mod dataset;
pub mod judge;
pub mod judging;
pub mod prompts;
pub mod render;
pub mod scene;
pub mod segmenter;
pub mod staging;
pub mod wording;
