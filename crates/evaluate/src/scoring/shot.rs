//! An image on its way to those who score it.

use benchmarks::records::Subject;
use tch::Tensor;

/// An image that is looked at.
pub struct Shot {
    pub subject: Subject,
    /// `[3, H, W]` in 0..1
    pub image: Tensor,
    /// The file as it is, for an endpoint.
    pub bytes: Vec<u8>,
}
