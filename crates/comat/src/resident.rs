//! Networks that need not be in the device's memory all the time.

use anyhow::Result;

/// A frozen network: in memory always, or only while it works. One that is let go is opened again from its files, which the system
/// keeps in the host's memory as long as there is room.
pub enum Resident<T> {
    Kept(T),
    Reopened(Box<dyn Fn() -> Result<T>>),
}

impl<T> Resident<T> {
    /// Does some work with it. Whatever needs it several times belongs into one piece of work.
    ///
    /// # Errors
    /// Those of opening it, and of the work.
    pub fn with<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        match self {
            Self::Kept(network) => work(network),
            Self::Reopened(open) => work(&open()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc};

    #[test]
    fn what_is_let_go_is_there_only_while_it_works() {
        let (opened, there) = (Rc::new(Cell::new(0)), Rc::new(()));
        let (count, of) = (opened.clone(), there.clone());
        let resident = Resident::Reopened(Box::new(move || {
            count.set(count.get() + 1);
            Ok(of.clone())
        }));
        for round in 1..3 {
            let during = resident.with(|network| Ok(Rc::strong_count(network))).unwrap();
            assert_eq!((opened.get(), during, Rc::strong_count(&there)), (round, 3, 2));
        }
        let failing: Resident<()> = Resident::Reopened(Box::new(|| anyhow::bail!("no file")));
        assert!(failing.with(|()| Ok(())).is_err());
        assert_eq!(Resident::Kept(5).with(|n| Ok(n + 1)).unwrap(), 6);
    }
}
