//! Threads of which one runs at a time: whoever has the baton. At each step it passes it on, to whom is drawn. So
//! the same seed is the same run, to the last store, and a fault that was found once is found again.
//!
//! Who has the baton must never sleep until somebody else has done something: the store calls [`step`] where it
//! would (`ASIDE`).

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::store::ASIDE;

#[derive(Debug)]
pub(crate) struct Baton {
    state: Mutex<State>,
    passed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Those who have not come to their end.
    runners: Vec<u64>,
    has_it: u64,
    rng: SmallRng,
    /// Of 100 steps so many go on with the same thread.
    keeps: u32,
}

thread_local! {
    static MINE: RefCell<Option<(Arc<Baton>, u64)>> = const { RefCell::new(None) };
}

/// Lets somebody else run, or nobody: at any place where another order of what threads do matters.
pub(crate) fn step() {
    MINE.with_borrow(|mine| {
        if let Some((baton, me)) = mine {
            baton.pass(*me);
        }
    });
}

/// The number of this thread.
pub(crate) fn me() -> u64 {
    MINE.with_borrow(|mine| mine.as_ref().map_or(0, |(_, me)| *me))
}

impl Baton {
    /// For the threads 1 to `runners`.
    pub(crate) fn new(runners: u64, seed: u64) -> Arc<Baton> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let state = State {
            runners: (1..=runners).collect(),
            has_it: 1,
            keeps: [0, 0, 40, 80][rng.random_range(0..4)],
            rng,
        };
        Arc::new(Baton {
            state: Mutex::new(state),
            passed: Condvar::new(),
        })
    }

    /// Runs `body` as thread `me`, from when it gets the baton on.
    pub(crate) fn run<T>(self: &Arc<Self>, me: u64, body: impl FnOnce() -> T) -> T {
        /// Whatever comes of it, the others go on.
        struct Leave<'a>(&'a Baton, u64);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                MINE.take();
                ASIDE.set(None);
                let mut state = self.0.state.lock();
                state.runners.retain(|runner| *runner != self.1);
                self.0.give(&mut state);
            }
        }
        let mut state = self.state.lock();
        let _leave = Leave(self, me);
        self.wait(&mut state, me);
        drop(state);
        MINE.set(Some((Arc::clone(self), me)));
        ASIDE.set(Some(step));
        body()
    }

    fn pass(&self, me: u64) {
        let mut state = self.state.lock();
        let keeps = state.keeps;
        if state.rng.random_range(0..100) >= keeps {
            self.give(&mut state);
            self.wait(&mut state, me);
        }
    }

    fn give(&self, state: &mut State) {
        if !state.runners.is_empty() {
            let next = state.rng.random_range(0..state.runners.len());
            state.has_it = state.runners[next];
            self.passed.notify_all();
        }
    }

    fn wait(&self, state: &mut parking_lot::MutexGuard<'_, State>, me: u64) {
        while state.has_it != me {
            self.passed.wait(state);
        }
    }
}
