//! What pulls the images towards their prompts. Every loss gives its value and its cotangent at what it looked at.

pub mod anchor;
pub mod attention;
pub mod caption;
pub mod contrast;
pub mod step;
