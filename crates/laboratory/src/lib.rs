//! Experiments on the miniature world of [`scenes`]: [`pretrain`] makes its text-to-image stack, [`ablation`] trains with parts of the
//! method left out, [`sweep`] draws at several guidance scales, [`scores`] adds up what the judge says, [`report`] makes a page of it.

pub mod ablation;
pub mod pretrain;
pub mod reasons;
pub mod report;
pub mod scores;
pub mod sweep;
