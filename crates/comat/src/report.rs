//! Reports: one HTML file that holds everything it shows, for a browser without a network.
//!
//! A [`page`] is made of sections; in them tables, a [`gallery`] of pictures, and [`chart`]s of what the [`log`] of a run holds.

pub mod chart;
pub mod gallery;
pub mod html;
pub mod log;
pub mod page;
