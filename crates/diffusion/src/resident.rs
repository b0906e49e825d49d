//! Networks that are in device memory always, or only while they are in use.

use anyhow::Result;

/// A frozen network: in memory always, or only while it is in use. An unloaded network is opened again from its files,
/// which the operating system caches in host memory while there is space.
pub struct Resident<T> {
    kept: Option<T>,
    open: Box<dyn Fn() -> Result<T>>,
}

impl<T: 'static> Resident<T> {
    /// Opens the network and keeps it in memory.
    ///
    /// # Errors
    /// Errors of opening it.
    pub fn open(open: impl Fn() -> Result<T> + 'static) -> Result<Self> {
        Ok(Self { kept: Some(open()?), open: Box::new(open) })
    }

    /// A network that is already open. `open` opens it again.
    pub fn of(network: T, open: impl Fn() -> Result<T> + 'static) -> Self {
        Self { kept: Some(network), open: Box::new(open) }
    }

    /// Replaces the network; the new one is kept or unloaded like the old one.
    ///
    /// # Errors
    /// Errors of opening it; then nothing changes.
    pub fn replace(&mut self, open: impl Fn() -> Result<T> + 'static) -> Result<()> {
        let other = open()?;
        self.kept = self.kept.take().map(|_| other);
        self.open = Box::new(open);
        Ok(())
    }

    /// From now on it is in memory only while it is in use.
    pub fn unload(&mut self) {
        self.kept = None;
    }

    /// Runs `work` with the network. Put several uses into one call, since each call may open it.
    ///
    /// # Errors
    /// Errors of opening it, and of `work`.
    pub fn with<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        match &self.kept {
            Some(network) => work(network),
            None => work(&(self.open)()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, rc::Rc};

    #[test]
    fn what_is_unloaded_is_there_only_while_it_works() {
        let (opened, there) = (Rc::new(Cell::new(0)), Rc::new(()));
        let (count, of) = (opened.clone(), there.clone());
        let open = move || {
            count.set(count.get() + 1);
            Ok(of.clone())
        };
        let mut resident = Resident::open(open).unwrap();
        let during = |resident: &Resident<Rc<()>>| resident.with(|network| Ok(Rc::strong_count(network))).unwrap();
        assert_eq!((during(&resident), opened.get(), Rc::strong_count(&there)), (3, 1, 3));
        resident.unload();
        for round in 2..4 {
            assert_eq!((during(&resident), opened.get(), Rc::strong_count(&there)), (3, round, 2));
        }
        let fails = || anyhow::bail!("no file");
        assert!(Resident::<()>::open(fails).is_err());
        let mut failing = Resident::of((), fails);
        assert!(failing.with(|()| Ok(())).is_ok());
        failing.unload();
        assert!(failing.replace(|| anyhow::bail!("no file")).is_err());
        assert!(failing.with(|()| Ok(())).is_err());
        let mut one = Resident::open(|| Ok(1)).unwrap();
        one.replace(|| Ok(2)).unwrap();
        assert_eq!((one.kept, one.with(|n| Ok(*n)).unwrap()), (Some(2), 2));
        one.unload();
        one.replace(|| Ok(3)).unwrap();
        assert_eq!((one.kept, one.with(|n| Ok(*n)).unwrap()), (None, 3));
    }
}
