//! What the tests of the promises share: a watchdog, wakers that count, and a small engine.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic;
use std::pin::Pin;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use layout_lease::{
    Barrier, BlockMap, BlockOp, BreakLayouts, BreakLeases, BreakMany, Close, Drained, LayoutGuard,
    LayoutLease, LeasePages, OpError, PageRange, PinPages, Recalled, Retired, RetiredReady,
};

/// No time at all: `wait_timeout(NOW)` looks once and does not block.
pub(crate) const NOW: Duration = Duration::ZERO;

/// After this long, something hangs. No test comes near it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Every choice of the barrier.
pub(crate) const BARRIERS: [Barrier; 3] = [Barrier::Adaptive, Barrier::Fenced, Barrier::Asymmetric];

/// The pages `start..end`.
pub(crate) fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(start, end).expect("a test names a range that is none")
}

/// A guard with no engine.
pub(crate) fn bare() -> LayoutGuard<()> {
    LayoutGuard::default()
}

/// Runs `f` on a thread of its own. A hang becomes a failure; a panic goes through.
pub(crate) fn watched<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    watched_for(PATIENCE, f)
}

pub(crate) fn watched_for<T: Send + 'static>(
    patience: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let output = f();
        done.send(()).ok();
        output
    });
    // A panic drops the sender, which ends the wait too.
    if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        panic!("hangs: no end within {patience:?}");
    }
    match thread.join() {
        Ok(output) => output,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Waits for an event that can be seen. Only under [`watched`].
pub(crate) fn until(event: impl Fn() -> bool) {
    while !event() {
        thread::yield_now();
    }
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Bell(AtomicUsize);

impl Bell {
    pub(crate) fn new() -> Arc<Bell> {
        Arc::default()
    }

    /// How often it was rung.
    pub(crate) fn rung(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once; nobody is to be woken.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Both ways to ask a waitable once: each must give the same answer.
pub(crate) trait Ask: Future + Unpin + Sized {
    fn ask_blocking(&mut self) -> Option<Self::Output>;

    /// Whether it is still waiting. Asks both ways, and panics if it is not.
    #[track_caller]
    fn assert_waits(&mut self) {
        assert!(poll(self).is_pending(), "polled: ready too early");
        assert!(self.ask_blocking().is_none(), "waited: ready too early");
    }

    /// The output, which must be there.
    #[track_caller]
    fn now(&mut self) -> Self::Output {
        self.ask_blocking().expect("still waiting")
    }
}

/// Gives types their [`Ask`].
macro_rules! ask {
    ($([$($generics:tt)*] $ty:ty;)*) => {
        $(impl<$($generics)*> Ask for $ty {
            fn ask_blocking(&mut self) -> Option<Self::Output> {
                self.wait_timeout(NOW)
            }
        })*
    };
}

ask! {
    [M] PinPages<'_, M>;
    [M] LeasePages<'_, M>;
    [] Recalled<'_>;
    [M] BreakLayouts<'_, M>;
    [M] BreakLeases<'_, M>;
    [] BreakMany<'_>;
    [M] Close<'_, M>;
    [M: BlockMap] BlockOp<'_, M>;
    [M: BlockMap + Send + Sync + 'static] Retired<M>;
    [M] RetiredReady<'_, M>;
}

/// Whether `try_pin` gets all of `pages`; the pin is given back at once.
pub(crate) fn is_open<M>(guard: &LayoutGuard<M>, pages: PageRange) -> bool {
    guard.try_pin(pages).is_ok()
}

/// A lease of `pages`, which are open.
#[track_caller]
pub(crate) fn lease<M>(guard: &LayoutGuard<M>, pages: PageRange) -> LayoutLease {
    guard.lease(pages).now().expect("open")
}

/// Nothing is left behind: no pin or lease, nobody in the queue, everything open and idle.
#[track_caller]
pub(crate) fn assert_clean<M>(guard: &LayoutGuard<M>) {
    let stats = guard.stats();
    let left = (stats.pins, stats.leases, stats.queued, stats.retired_pages);
    assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
    assert!(is_open(guard, PageRange::ALL), "something is still closed");
    assert!(guard.holders(..).is_empty());
    drop(guard.try_break_layouts(..).expect("somebody is left"));
}

/// An engine that calls a closure for every operation and frees nothing itself.
pub(crate) struct Engine {
    calls: AtomicUsize,
    #[expect(clippy::type_complexity, reason = "named once, here")]
    work: Box<dyn Fn(&'static str, &Drained<'_, Engine>) -> Result<u64, EngineError> + Send + Sync>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EngineError(pub(crate) &'static str);

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for EngineError {}

impl Engine {
    /// A guard for an engine that does `work` in each operation.
    pub(crate) fn guard(
        work: impl Fn(&'static str, &Drained<'_, Engine>) -> Result<u64, EngineError>
        + Send
        + Sync
        + 'static,
    ) -> LayoutGuard<Engine> {
        LayoutGuard::new(Engine {
            calls: AtomicUsize::new(0),
            work: Box::new(work),
        })
    }

    /// One that only counts its calls.
    pub(crate) fn idle() -> LayoutGuard<Engine> {
        Engine::guard(|_, _| Ok(1))
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn call(
        &self,
        name: &'static str,
        drained: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        assert!(proof.is_of(self), "{name}: another engine's proof");
        assert!(proof.covers(drained), "{name}: {drained} is not drained");
        self.calls.fetch_add(1, Ordering::SeqCst);
        (self.work)(name, proof).map_err(OpError::Map)
    }
}

impl BlockMap for Engine {
    type Error = EngineError;

    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        self.call("punch_hole", pages, proof)
    }

    fn zero_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        self.call("zero_range", pages, proof)
    }

    fn truncate(
        &self,
        new_len: u64,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        self.call("truncate", pages(new_len, u64::MAX), proof)
    }

    fn collapse_range(
        &self,
        range: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        self.call("collapse_range", pages(range.start(), u64::MAX), proof)
    }

    fn insert_range(
        &self,
        range: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<EngineError>> {
        self.call("insert_range", pages(range.start(), u64::MAX), proof)
    }
}

/// Counts its drops.
pub(crate) struct Tombstone(pub(crate) Arc<AtomicUsize>);

impl Drop for Tombstone {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A value whose drop runs `f`.
pub(crate) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub(crate) fn new(f: F) -> Self {
        OnDrop(Some(f))
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// Things in the order in which they happened.
pub(crate) struct Log<T>(Mutex<Vec<T>>);

impl<T: Clone> Log<T> {
    pub(crate) fn new() -> Self {
        Log(Mutex::new(Vec::new()))
    }

    pub(crate) fn write(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn read(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

/// Whether this process is one that [`alone`] started.
pub(crate) fn is_alone() -> bool {
    std::env::var_os("PROMISES_ALONE").is_some()
}

/// Runs the test called `name` in a process of its own, where nothing else happens.
pub(crate) fn alone(name: &str) -> (ExitStatus, String) {
    let output = Command::new(std::env::current_exe().expect("where am I?"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("PROMISES_ALONE", "1")
        .output()
        .expect("cannot start a process");
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

/// A small generator, so that a run can be repeated: xorshift64*.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// One of `0..n`.
    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    /// A range of at most `longest` of the pages `0..all`.
    pub(crate) fn range(&mut self, all: u64, longest: u64) -> PageRange {
        let start = self.roll(all);
        let len = 1 + self.roll(longest.min(all - start));
        pages(start, start + len)
    }
}
