//! An image that is being scored.

use benchmarks::records::Subject;
use tch::Tensor;

/// An image and what the judges need of it.
pub struct Shot {
    pub subject: Subject,
    /// `[3, H, W]` in 0..1
    pub image: Tensor,
    /// The bytes of the file, for an endpoint.
    pub bytes: Vec<u8>,
}
