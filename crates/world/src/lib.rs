//! The miniature world: pictures of one to three shapes, each with a colour and a texture, on a plain ground.
//!
//! [`scene`] says what is in a picture, [`render`] draws it, [`wording`] puts it into words (and words into demands),
//! [`prompts`] makes prompts by category, [`staging`] scenes that meet them. [`judge`] says what a picture shows and whether
//! that is what was asked for, [`judging`] does so for folders, [`scores`] adds up, [`report`] makes a page of it. Only [`pretrain`]
//! knows of networks. [`ablation`] trains on it with parts of the method left out, [`sweep`] draws at several guidances.

pub mod ablation;
pub mod dataset;
pub mod judge;
pub mod judging;
pub mod pretrain;
pub mod prompts;
pub mod reasons;
pub mod render;
pub mod report;
pub mod scene;
pub mod scores;
pub mod segmenter;
pub mod staging;
pub mod sweep;
pub mod wording;
