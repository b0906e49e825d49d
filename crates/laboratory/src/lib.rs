//! Experiments on the miniature world of [`scenes`]: [`pretrain`] trains its text-to-image models, [`ablation`] trains
//! without parts of the method, or by other methods ([`baselines`]), [`sweep`] samples at several guidance scales, [`scores`] aggregates the judge's
//! results, [`report`] writes a page about them.

pub mod ablation;
pub mod baselines;
pub mod pretrain;
pub mod reasons;
pub mod report;
pub mod scores;
pub mod second_judge;
pub mod sweep;
