//! Futures polled by hand: by one thread and then another, with one waker and then another, and dropped
//! before they are over.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use shuttle::thread::{JoinHandle, Thread};

use super::Tally;
use super::world::one_in;

/// Wakes a thread.
struct Bell {
    thread: Thread,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Relaxed);
        self.thread.unpark();
    }
}

impl Bell {
    fn new() -> Arc<Bell> {
        Arc::new(Bell {
            thread: shuttle::thread::current(),
            rung: AtomicBool::new(false),
        })
    }
}

pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What becomes of a future that is pending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nerve {
    /// It is polled to its end.
    Steady,
    /// It is dropped sometimes.
    Weak,
}

/// Polls `work` to its end, or drops it; moves it to another thread now and then.
pub(crate) fn play(tally: &Arc<Tally>, mut work: Work, nerve: Nerve) {
    loop {
        // A new one each time: the one before must not be the one that is rung.
        let bell = Bell::new();
        let waker = Waker::from(Arc::clone(&bell));
        if let Poll::Ready(()) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
            tally.count("futures over");
            return;
        }
        tally.count("futures pending");
        if nerve == Nerve::Weak && one_in(3) {
            tally.count("futures dropped");
            return;
        }
        if one_in(3) {
            tally.count("futures moved");
            let tally = Arc::clone(tally);
            let mover: JoinHandle<()> = shuttle::thread::spawn(move || play(&tally, work, nerve));
            mover.join().unwrap();
            return;
        }
        if one_in(3) {
            // Polled again although nobody has asked for it.
            continue;
        }
        while !bell.rung.load(Relaxed) {
            shuttle::thread::park();
        }
        if nerve == Nerve::Weak && one_in(3) {
            // It has got what it waited for, and never fetches it.
            tally.count("futures dropped when woken");
            return;
        }
    }
}
