//! Reads images while others are scored.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

/// Calls `read` for all items, in their order, on a thread of its own. `with` receives the results; while it uses one, the
/// next waits and the one after it is read, and no more. Once `with` returns, nothing more is read.
pub fn read<I: Sync, T: Send, R>(items: &[I], read: impl Fn(&I) -> T + Send, with: impl FnOnce(Receiver<T>) -> R) -> R {
    thread::scope(|scope| {
        let (sender, results) = sync_channel(1);
        scope.spawn(move || items.iter().map(read).try_for_each(|result| sender.send(result)));
        with(results)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    #[test]
    fn it_reads_in_order_and_not_far_ahead() {
        let items: Vec<usize> = (0..50).collect();
        let begun = AtomicUsize::new(0);
        let double = |item: &usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            item * 2
        };
        let taken: Vec<usize> = read(&items, double, |results| {
            let look = |(i, result)| {
                thread::sleep(Duration::from_millis(1));
                let ahead = begun.load(Ordering::SeqCst) - i;
                assert!((1..=3).contains(&ahead), "{ahead} of item {i}");
                result
            };
            results.into_iter().enumerate().map(look).collect()
        });
        assert_eq!(taken, (0..50).map(|i| i * 2).collect::<Vec<_>>());
    }

    #[test]
    fn it_ends_when_nobody_takes_more() {
        let items: Vec<usize> = (0..50).collect();
        let begun = AtomicUsize::new(0);
        let count = |_: &usize| begun.fetch_add(1, Ordering::SeqCst);
        assert_eq!(read(&items, count, |results| results.recv()), Ok(0));
        assert!(begun.load(Ordering::SeqCst) <= 3);
        assert_eq!(read(&[] as &[usize], |item| *item, |results| results.iter().count()), 0);
    }
}
