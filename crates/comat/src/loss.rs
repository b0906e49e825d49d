//! Losses that train images to match their prompts. Every loss returns its value and its cotangent at its input.

pub mod anchor;
pub mod attention;
pub mod caption;
pub mod step;
