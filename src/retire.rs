//! Retirement: blocks that are to be freed once nobody uses them, without anybody waiting for that.

use std::any::Any;
use std::fmt;
use std::mem;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::task::Poll;

use crate::block_map::BlockMap;
use crate::drained::Drained;
use crate::error::{BreakError, OpError};
use crate::guard::{GuardRef, LayoutGuard, Verdict};
use crate::range::PageRange;
use crate::raw::retiring::Retirement;
use crate::raw::shelf::Claim;
use crate::raw::told;
use crate::raw::wait::{Step, Via, waitable};
use crate::sync::Mutex;

/// Deferred frees: each closes its pages now, and punches them out once they are drained and what must be
/// on media is there. The block map is called by whoever waits for the [`Retired`], by
/// [`run_retired`](Self::run_retired), or by the waiting for [`close`](Self::close); never inside the drop
/// of a pin.
impl<M: BlockMap + Send + Sync + 'static> LayoutGuard<M> {
    /// Closes `pages` (page indices, half-open), to be punched out when nobody holds them any more. Never
    /// waits.
    ///
    /// Everybody who wants the pages meanwhile waits until somebody has run the retirement, so see to it
    /// that somebody does: [`run_retired`](Self::run_retired) now and then, or a thread or task that
    /// [waits for work](Self::retired_ready).
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for one scan of the slots.
    ///
    /// # Cancel safety
    ///
    /// Dropping the value detaches the retirement, and does not take it back.
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard closed, else what the block
    /// map says.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// use std::sync::Arc;
    /// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    /// guard.map().allocate(0..8)?;
    ///
    /// let reader = guard.try_pin(0..2)?;
    /// drop(guard.retire(0..4)); // the pages are not named any more; nobody waits for the reader
    /// assert_eq!(guard.run_retired(), 0);
    /// drop(reader);
    /// assert_eq!(guard.run_retired(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retire(self: &Arc<Self>, pages: impl RangeBounds<u64>) -> Retired<M> {
        self.retire_after(pages, 0)
    }

    /// [`retire`](Self::retire), for blocks that what is on media still names until the log has got there
    /// up to `lsn`: they are not freed before [`durable`](Self::durable) has said so. What the numbers count is your
    /// affair (bytes of log, records); they must only grow, and 0 waits for nothing.
    ///
    /// # Blocking
    ///
    /// As [`retire`](Self::retire).
    ///
    /// # Cancel safety
    ///
    /// As [`retire`](Self::retire).
    ///
    /// # Errors
    ///
    /// As [`retire`](Self::retire). One that is still not durable when the guard is closed is given up: the value
    /// yields [`OpError::Break`], and its blocks stay where they are.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// use std::sync::Arc;
    /// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    /// guard.map().allocate(0..8)?;
    /// let mut retired = guard.retire_after(0..4, 17); // unlinked by log record 17
    /// assert_eq!(guard.run_retired(), 0);
    /// guard.durable(17); // the log has been flushed
    /// assert_eq!(guard.run_retired(), 4);
    /// assert_eq!(retired.wait()?, 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retire_after(self: &Arc<Self>, pages: impl RangeBounds<u64>, lsn: u64) -> Retired<M> {
        self.freer.get_or_init(|| free::<M>);
        let state = match PageRange::from_bounds(pages) {
            Err(error) => State::Failed(error.into()),
            Ok(range) => State::Queued {
                id: NOBODY,
                range,
                job: Arc::new(Job::default()),
            },
        };
        let mut retired = Retired {
            guard: Arc::clone(self),
            state,
        };
        // If a waker panics in here, it is detached: `retired` is dropped.
        if let State::Queued { id, range, job } = &mut retired.state {
            match self
                .record()
                .retire((*range).into(), lsn, Arc::clone(job) as _)
            {
                Ok(ticket) => *id = ticket,
                Err(_) => retired.state = State::Failed(BreakError::Closed),
            }
        }
        retired
    }

    /// Everything up to and with `lsn` is on media: retirements that waited for that can be run. Smaller numbers
    /// than before say nothing new.
    ///
    /// # Blocking
    ///
    /// Takes the mapping's lock for a moment.
    ///
    /// # Examples
    ///
    /// See [`retire_after`](Self::retire_after).
    pub fn durable(&self, lsn: u64) {
        self.record().set_durable(lsn);
    }

    /// Punches out whatever is retired, drained and durable, and tells how many pages were freed.
    ///
    /// # Blocking
    ///
    /// Waits for no holder. It calls the block map; call it where the engine's own work may run.
    ///
    /// # Errors
    ///
    /// What goes wrong is told to the [`Retired`]. If that has been dropped, a panic of the block map goes on
    /// through this call (what is left then, the next call runs), and an error is only counted, in
    /// [`Stats::retired_failed`](crate::Stats::retired_failed); [`run_retired_with`](Self::run_retired_with)
    /// hands it over. Either way the pages are open again.
    ///
    /// # Examples
    ///
    /// See [`retire`](Self::retire).
    pub fn run_retired(&self) -> u64 {
        self.run_retired_with(|_, _| ())
    }

    /// [`run_retired`](Self::run_retired), which tells `failed` the pages and the error of every retirement that failed
    /// in this call and whose [`Retired`] has been dropped. Those that [`close`](Self::close) runs or gives up are
    /// only counted.
    ///
    /// # Blocking
    ///
    /// As [`run_retired`](Self::run_retired). `failed` is called when the pages are open again, and under no lock.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// use std::sync::Arc;
    /// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    /// guard.map().allocate(0..8)?;
    /// drop(guard.retire(0..4));
    /// let mut failures = Vec::new();
    /// let freed = guard.run_retired_with(|pages, error| failures.push((pages, error)));
    /// assert_eq!((freed, failures.len()), (4, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_retired_with(&self, mut failed: impl FnMut(PageRange, OpError<M::Error>)) -> u64 {
        let mut freed = 0;
        while let Some(claim) = self.record().claim_retired() {
            let pages = claim.ranges.as_slice().first().copied();
            match (run(self, claim, Verdict::Free), pages) {
                (Ok(n), _) => freed += n,
                (Err(error), Some(pages)) => failed(pages, error),
                (Err(_), None) => {}
            }
        }
        freed
    }

    /// Waits until [`run_retired`](Self::run_retired) has work; or until it never will again, because the guard
    /// is closed and nothing is retired any more. Of several who wait, all are told.
    ///
    /// # Blocking
    ///
    /// The call itself does nothing. Polling and waiting take the mapping's lock for a moment; they run nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the value loses nothing: it may be called again.
    ///
    /// # Examples
    ///
    /// A thread that reclaims until the end:
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// use std::{sync::Arc, thread};
    /// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    /// guard.map().allocate(0..8)?;
    /// let reclaimer = thread::spawn({
    ///     let guard = Arc::clone(&guard);
    ///     move || {
    ///         let mut freed = 0;
    ///         while !guard.is_closed() {
    ///             guard.retired_ready().wait();
    ///             freed += guard.run_retired();
    ///         }
    ///         freed
    ///     }
    /// });
    /// assert_eq!(guard.retire(2..8).wait()?, 6); // by the reclaimer, or here if that is faster
    /// guard.close().wait();
    /// assert!(reclaimer.join().unwrap() <= 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retired_ready(&self) -> RetiredReady<'_, M> {
        RetiredReady {
            guard: self,
            state: ReadyState::Idle,
        }
    }
}

/// No entry of any queue has this name.
const NOBODY: u64 = 0;

/// What becomes of a retirement, for whoever waits for it.
struct Job<M: BlockMap>(Mutex<Outcome<M::Error>>);

enum Outcome<E> {
    /// Not yet.
    Open,
    /// Nobody wants to know.
    Detached,
    Over(Result<u64, OpError<E>>),
    Panicked(Box<dyn Any + Send>),
}

impl<M: BlockMap> Default for Job<M> {
    fn default() -> Self {
        Job(Mutex::new(Outcome::Open))
    }
}

/// [`run`], for who knows nothing of block maps.
fn free<M: BlockMap + Send + Sync + 'static>(
    guard: &LayoutGuard<M>,
    claim: Claim,
    verdict: Verdict,
) -> u64 {
    run(guard, claim, verdict).unwrap_or(0)
}

/// Punches a claimed retirement out and reopens it, and tells the outcome to whoever waits for it. `Err`:
/// it failed, and nobody does. A panic that nobody waits for goes on.
fn run<M: BlockMap + Send + Sync + 'static>(
    guard: &LayoutGuard<M>,
    claim: Claim,
    verdict: Verdict,
) -> Result<u64, OpError<M::Error>> {
    let pages = claim.ranges.as_slice().first().copied();
    // One that is given up may never have been drained: then nobody sees this, and it only reopens.
    let proof = Drained::new(GuardRef::Borrowed(guard), claim.ranges, claim.id);
    let punch = || match (pages, verdict) {
        (Some(pages), Verdict::Free) => proof.punch_hole(pages),
        _ => Err(BreakError::Closed.into()),
    };
    // The block map's state is its own affair; nothing of ours is in the middle of anything.
    let outcome = match catch_unwind(AssertUnwindSafe(punch)) {
        Ok(result) => Outcome::Over(result),
        Err(panic) => Outcome::Panicked(panic),
    };
    let freed = match &outcome {
        Outcome::Over(Ok(freed)) => *freed,
        _ => 0,
    };
    // Told before it is reopened, which wakes whoever waits.
    let untold = match claim.job.downcast::<Job<M>>() {
        Ok(job) => {
            let mut told = job.0.lock();
            match *told {
                Outcome::Open => {
                    *told = outcome;
                    None
                }
                _ => Some(outcome),
            }
        }
        Err(_) => Some(outcome),
    };
    let in_vain = !matches!(untold, None | Some(Outcome::Over(Ok(_))));
    if in_vain {
        guard.record().count_in_vain();
    }
    // Behind the count, for a waker may panic.
    drop(proof);
    if in_vain {
        told::retired_in_vain(pages);
    }
    match untold {
        Some(Outcome::Panicked(panic)) => resume_unwind(panic),
        Some(Outcome::Over(Err(error))) => Err(error),
        _ => Ok(freed),
    }
}

/// Pages that are to be freed when they are drained: they are closed already. From
/// [`LayoutGuard::retire`]. A future, and a blocking call; waiting runs the retirement, if nobody else has,
/// on the thread that polls or waits. The output, when the pages are open again, is the number of pages
/// whose blocks were freed.
///
/// # Cancel safety
///
/// Dropping it detaches the retirement: it goes on without anybody waiting for it. It cannot be taken
/// back.
///
/// # Panics
///
/// Polled or waited on again after its output. A panic of the block map goes through, on whichever thread
/// it was called.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, maps::ExtentMap};
/// use std::sync::Arc;
/// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
/// guard.map().allocate(0..8)?;
/// let retired = guard.retire(0..4);
/// assert_eq!(retired.wait()?, 4); // waiting runs it
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping this detaches the retirement: its outcome is told to nobody"]
pub struct Retired<M: BlockMap + Send + Sync + 'static> {
    guard: Arc<LayoutGuard<M>>,
    state: State<M>,
}

enum State<M: BlockMap> {
    Failed(BreakError),
    /// Dropped here, it **must** say that nobody wants to know the outcome.
    Queued {
        id: u64,
        range: PageRange,
        job: Arc<Job<M>>,
    },
    Done,
}

impl<M: BlockMap + Send + Sync + 'static> Retired<M> {
    /// The pages; `None` if the range was wrong or the guard closed, or once the output is out.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// use std::sync::Arc;
    /// let guard = Arc::new(LayoutGuard::new(ExtentMap::new(8)));
    /// guard.map().allocate(0..8)?;
    /// assert_eq!(guard.retire(2..4).range().map(|r| r.len()), Some(2));
    /// assert_eq!(guard.retire(4..2).range(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range(&self) -> Option<PageRange> {
        match &self.state {
            State::Queued { range, .. } => Some(*range),
            State::Failed(_) | State::Done => None,
        }
    }
}

impl<M: BlockMap + Send + Sync + 'static> Step for Retired<M> {
    type Output = Result<u64, OpError<M::Error>>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        let (id, job) = match &self.state {
            State::Failed(error) => {
                let error = *error;
                self.state = State::Done;
                return Poll::Ready(Err(error.into()));
            }
            State::Queued { id, job, .. } => (*id, Arc::clone(job)),
            State::Done => panic!("`Retired` polled after its output"),
        };
        match self.guard.record().poll_retired(id, via) {
            Retirement::Waiting => return Poll::Pending,
            Retirement::Claimed(claim) => {
                // We are told the outcome like anybody else.
                run(&self.guard, claim, Verdict::Free).ok();
            }
            Retirement::Over => {}
        }
        self.state = State::Done;
        let outcome = mem::replace(&mut *job.0.lock(), Outcome::Detached);
        match outcome {
            Outcome::Over(result) => Poll::Ready(result),
            Outcome::Panicked(panic) => resume_unwind(panic),
            Outcome::Open | Outcome::Detached => Poll::Ready(Err(BreakError::Closed.into())),
        }
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }
}

waitable! {
    impl[M: BlockMap + Send + Sync + 'static] Retired<M> => Result<u64, OpError<M::Error>>;
    panic: "If it has yielded its output before, or if the block map panics.";
}

impl<M: BlockMap + Send + Sync + 'static> Drop for Retired<M> {
    fn drop(&mut self) {
        let State::Queued { id, job, .. } = &self.state else {
            return;
        };
        let record = self.guard.record();
        let _last = record.unhang_retired(*id);
        let mut told = match job.0.try_lock() {
            Some(told) => told,
            // Whoever had the lock is not there to release it.
            None if record.is_forked() => return,
            None => job.0.lock(),
        };
        let outcome = mem::replace(&mut *told, Outcome::Detached);
        // The lock goes before what is the engine's.
        drop(told);
        drop(outcome);
    }
}

impl<M: BlockMap + Send + Sync + 'static> fmt::Debug for Retired<M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retired")
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}

/// Waits until there is a retirement to be run, or never will be: from [`LayoutGuard::retired_ready`]. A
/// future, and a blocking call. Somebody else may run it first.
///
/// # Cancel safety
///
/// Dropped at any point, nothing is lost.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`LayoutGuard::retired_ready`].
#[must_use = "nothing is waited for until this is awaited or waited on"]
pub struct RetiredReady<'g, M> {
    guard: &'g LayoutGuard<M>,
    state: ReadyState,
}

enum ReadyState {
    Idle,
    /// Has a name under which it may have left a listener. Dropped here, it **must** take that away.
    Named(u64),
    Done,
}

impl<M> Step for RetiredReady<'_, M> {
    type Output = ();

    fn step(&mut self, via: Via<'_>) -> Poll<()> {
        let record = self.guard.record();
        let name = match self.state {
            ReadyState::Idle => record.caller(),
            ReadyState::Named(name) => name,
            ReadyState::Done => panic!("`RetiredReady` polled after its output"),
        };
        self.state = ReadyState::Named(name);
        if !record.poll_ready(name, via) {
            return Poll::Pending;
        }
        record.unhang_reclaimer(name);
        self.state = ReadyState::Done;
        Poll::Ready(())
    }

    fn progress(&self) -> Option<u64> {
        Some(self.guard.record().progress())
    }
}

waitable! {
    impl['g, M] RetiredReady<'g, M> => ();
    panic: "If it has yielded its output before.";
}

impl<M> Drop for RetiredReady<'_, M> {
    fn drop(&mut self) {
        if let ReadyState::Named(name) = self.state {
            self.guard.record().unhang_reclaimer(name);
        }
    }
}

impl<M> fmt::Debug for RetiredReady<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = matches!(self.state, ReadyState::Done);
        f.debug_struct("RetiredReady")
            .field("done", &done)
            .finish_non_exhaustive()
    }
}
