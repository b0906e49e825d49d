use std::cell::{Cell, RefCell};
use tch::Tensor;

/// Cache of the text's keys and values in every cross-attention of one UNet: valid while weights and text stay the same.
/// The first pass fills it, later passes read it. It holds no gradients; it is for sampling a trajectory.
#[derive(Default)]
pub struct Projected {
    /// Keys and values in the order of the UNet's layers.
    pairs: RefCell<Vec<[Tensor; 2]>>,
    next: Cell<usize>,
}

impl Projected {
    /// Starts a new pass.
    pub(crate) fn rewind(&self) {
        self.next.set(0);
    }

    /// Keys and values of the next layer; `project` computes them in the first pass.
    pub(crate) fn next(&self, project: impl FnOnce() -> [Tensor; 2]) -> [Tensor; 2] {
        let place = self.next.replace(self.next.get() + 1);
        let mut pairs = self.pairs.borrow_mut();
        if place == pairs.len() {
            pairs.push(project().map(|t| t.detach()));
        }
        pairs[place].each_ref().map(Tensor::shallow_clone)
    }
}
