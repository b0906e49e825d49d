//! Cross-attention maps of one forward pass, recorded only if a [`Recorder`] is passed. Otherwise they cost nothing:
//! attention itself does not compute its map.

#![allow(clippy::expect_used, reason = "of shapes that the network itself has made")]

use std::{cell::RefCell, fmt};
use tch::{Kind, Tensor};

/// The part of the UNet that a layer is in. The down blocks are not recorded: they have not seen the whole image yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Mid,
    Up,
}

/// The cross-attention modules of one part of the UNet at one resolution.
pub struct Layer {
    pub place: Place,
    /// Height of the maps in cells.
    pub height: i64,
    pub width: i64,
    /// Attention maps of each module, `[B, heads, height·width, L]`, float32 or float64; each pixel's row sums to 1.
    pub modules: Vec<Tensor>,
}

impl fmt::Display for Layer {
    /// Prints `up_16`, or `up_16x24` if the maps are not square.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let place = match self.place {
            Place::Mid => "mid",
            Place::Up => "up",
        };
        if self.height == self.width {
            write!(f, "{place}_{}", self.height)
        } else {
            write!(f, "{place}_{}x{}", self.height, self.width)
        }
    }
}

/// Records the attention maps of some rows of the batch.
pub struct Recorder {
    first: i64,
    rows: i64,
    layers: RefCell<Vec<Layer>>,
}

impl Recorder {
    /// Records the rows `first..first + rows`.
    pub fn new(first: i64, rows: i64) -> Self {
        Self { first, rows, layers: RefCell::default() }
    }

    /// The recorded layers, in the order of the UNet.
    pub fn into_layers(self) -> Vec<Layer> {
        self.layers.into_inner()
    }

    pub(crate) fn tap(&self, place: Place) -> Tap<'_> {
        Tap { recorder: self, place, size: (0, 0) }
    }
}

/// A recorder for one part of the UNet.
#[derive(Clone, Copy)]
pub(crate) struct Tap<'a> {
    recorder: &'a Recorder,
    place: Place,
    size: (i64, i64),
}

impl Tap<'_> {
    pub fn sized(self, height: i64, width: i64) -> Self {
        Self { size: (height, width), ..self }
    }

    /// Records the map of queries `q` `[B, N, heads·d]` and keys `k` `[B, L, heads·d]`.
    pub fn record(self, q: &Tensor, k: &Tensor, heads: i64) {
        let split = |x: &Tensor| {
            let (_, tokens, width) = x.size3().expect("attention takes [B, N, width]");
            let x = x.narrow(0, self.recorder.first, self.recorder.rows);
            x.view([-1, tokens, heads, width / heads]).transpose(1, 2)
        };
        let kind = if q.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let scale = ((q.size()[2] / heads) as f64).powf(-0.5);
        let scores = (split(q) * scale).matmul(&split(k).transpose(2, 3));
        let map = scores.softmax(-1, kind);
        let (height, width) = self.size;
        let mut layers = self.recorder.layers.borrow_mut();
        match layers.iter_mut().find(|l| (l.place, l.height, l.width) == (self.place, height, width)) {
            Some(layer) => layer.modules.push(map),
            None => layers.push(Layer { place: self.place, height, width, modules: vec![map] }),
        }
    }
}
