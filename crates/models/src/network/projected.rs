use std::cell::{Cell, RefCell};
use tch::Tensor;

/// Keys and values of the text in every cross-attention of one UNet, for as long as weights and text stay the same: the first pass
/// fills it, every other pass takes from it. Without gradients, as on the way of a trajectory.
#[derive(Default)]
pub struct Projected {
    /// In the order in which the UNet comes to them.
    pairs: RefCell<Vec<[Tensor; 2]>>,
    next: Cell<usize>,
}

impl Projected {
    /// A pass begins.
    pub(crate) fn rewind(&self) {
        self.next.set(0);
    }

    /// Keys and values of the next layer.
    pub(crate) fn next(&self, project: impl FnOnce() -> [Tensor; 2]) -> [Tensor; 2] {
        let place = self.next.replace(self.next.get() + 1);
        let mut pairs = self.pairs.borrow_mut();
        if place == pairs.len() {
            pairs.push(project().map(|t| t.detach()));
        }
        pairs[place].each_ref().map(Tensor::shallow_clone)
    }
}
