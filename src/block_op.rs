//! The block operations: break, call the block map under the proof, reopen.

use std::fmt;
use std::ops::RangeBounds;
use std::task::Poll;

use crate::block_map::BlockMap;
use crate::breaking::BreakLayouts;
use crate::drained::Drained;
use crate::error::OpError;
use crate::guard::LayoutGuard;
use crate::range::{PageRange, RangeError};
use crate::raw::told::Waiting;
use crate::raw::wait::{Step, Via, waitable};

/// One of the five ways in which blocks leave a mapping.
#[derive(Clone, Copy, Debug)]
enum Op {
    PunchHole(PageRange),
    ZeroRange(PageRange),
    Truncate(u64),
    CollapseRange(PageRange),
    InsertRange(PageRange),
}

impl Op {
    /// The pages that must be closed and idle: those that lose their blocks, and those that move.
    fn drains(self) -> Result<PageRange, RangeError> {
        match self {
            Op::PunchHole(pages) | Op::ZeroRange(pages) => Ok(pages),
            Op::CollapseRange(pages) | Op::InsertRange(pages) => {
                PageRange::from_bounds(pages.start()..)
            }
            Op::Truncate(new_len) => PageRange::from_bounds(new_len..),
        }
    }

    /// Calls the block map under `proof`, which must cover what the operation drains (I2).
    fn run<M: BlockMap>(self, proof: &Drained<'_, M>) -> Result<u64, OpError<M::Error>> {
        let drains = self.drains().map_err(|e| OpError::Break(e.into()))?;
        if !proof.covers(drains) {
            return Err(OpError::NotCovered);
        }
        proof.verify();
        let map = proof.guard().map();
        match self {
            Op::PunchHole(pages) => map.punch_hole(pages, proof),
            Op::ZeroRange(pages) => map.zero_range(pages, proof),
            Op::Truncate(new_len) => map.truncate(new_len, proof),
            Op::CollapseRange(pages) => map.collapse_range(pages, proof),
            Op::InsertRange(pages) => map.insert_range(pages, proof),
        }
    }
}

/// The operations under a proof in hand. Each answers [`OpError::NotCovered`], without calling the block
/// map, when the proof is too small; else what the block map answers, which is called here, on this thread. The
/// pages stay closed until the proof is dropped, so several may follow each other.
impl<M: BlockMap> Drained<'_, M> {
    /// [`BlockMap::punch_hole`] of `pages`, which the proof must cover.
    ///
    /// # Errors
    ///
    /// [`OpError::NotCovered`], or the block map's.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, OpError, PageRange, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// let proof = guard.break_layouts(0..4).wait()?;
    /// assert_eq!(proof.punch_hole(PageRange::new(1, 3)?)?, 2);
    /// assert!(matches!(proof.punch_hole(PageRange::new(3, 5)?), Err(OpError::NotCovered)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn punch_hole(&self, pages: PageRange) -> Result<u64, OpError<M::Error>> {
        Op::PunchHole(pages).run(self)
    }

    /// [`BlockMap::zero_range`] of `pages`, which the proof must cover.
    ///
    /// # Errors
    ///
    /// [`OpError::NotCovered`], or the block map's.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// let proof = guard.break_layouts(0..4).wait()?;
    /// proof.zero_range(PageRange::new(1, 3)?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn zero_range(&self, pages: PageRange) -> Result<u64, OpError<M::Error>> {
        Op::ZeroRange(pages).run(self)
    }

    /// [`BlockMap::truncate`] to `new_len` pages; the proof must cover `new_len..`.
    ///
    /// # Errors
    ///
    /// [`OpError::NotCovered`], or the block map's.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// let proof = guard.break_layouts(4..).wait()?;
    /// assert_eq!(proof.truncate(5)?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate(&self, new_len: u64) -> Result<u64, OpError<M::Error>> {
        Op::Truncate(new_len).run(self)
    }

    /// [`BlockMap::collapse_range`] of `pages`; the proof must cover `pages.start()..`, for all later
    /// pages move.
    ///
    /// # Errors
    ///
    /// [`OpError::NotCovered`], or the block map's.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// let proof = guard.break_layouts(2..).wait()?;
    /// assert_eq!(proof.collapse_range(PageRange::new(2, 4)?)?, 2);
    /// assert_eq!(guard.map().len(), 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn collapse_range(&self, pages: PageRange) -> Result<u64, OpError<M::Error>> {
        Op::CollapseRange(pages).run(self)
    }

    /// [`BlockMap::insert_range`] of `pages`; the proof must cover `pages.start()..`, for all later
    /// pages move.
    ///
    /// # Errors
    ///
    /// [`OpError::NotCovered`], or the block map's.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// let proof = guard.break_layouts(2..).wait()?;
    /// proof.insert_range(PageRange::new(2, 4)?)?;
    /// assert_eq!((guard.map().len(), guard.map().lookup(2)), (10, None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert_range(&self, pages: PageRange) -> Result<u64, OpError<M::Error>> {
        Op::InsertRange(pages).run(self)
    }
}

/// The block operations: each closes what it drains *now*, and, waited for, drains it, calls the block
/// map and reopens. The output is the number of pages whose blocks were freed. All lengths and ranges are in
/// pages.
impl<M: BlockMap> LayoutGuard<M> {
    /// Sets the mapping's length to `new_len` pages: drains `new_len..`, then frees every block there.
    /// Growing is allowed. The greatest length is `u64::MAX - 1` pages: a longer one would leave no page
    /// to close.
    ///
    /// # Blocking
    ///
    /// The call itself closes the pages, under the mapping's lock, for one scan of the slots; waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its output, it frees nothing and reopens the pages; see [`BlockOp`].
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard is or gets closed, and else what the
    /// block map answers: [`OpError::Unsupported`], [`OpError::Map`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// assert_eq!(guard.truncate(5).wait()?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn truncate(&self, new_len: u64) -> BlockOp<'_, M> {
        BlockOp::start(self, Ok(Op::Truncate(new_len)))
    }

    /// Frees the blocks behind `pages` (page indices, half-open) once they are drained.
    ///
    /// # Blocking
    ///
    /// The call itself closes the pages, under the mapping's lock, for one scan of the slots; waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its output, it frees nothing and reopens the pages; see [`BlockOp`].
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard is or gets closed, and else what the
    /// block map answers: [`OpError::Unsupported`], [`OpError::Map`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// assert_eq!(guard.punch_hole(2..4).wait()?, 2);
    /// assert_eq!(guard.map().lookup(2), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn punch_hole(&self, pages: impl RangeBounds<u64>) -> BlockOp<'_, M> {
        BlockOp::start(self, PageRange::from_bounds(pages).map(Op::PunchHole))
    }

    /// Makes `pages` (page indices, half-open) read as zeroes once they are drained.
    ///
    /// # Blocking
    ///
    /// The call itself closes the pages, under the mapping's lock, for one scan of the slots; waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its output, it frees nothing and reopens the pages; see [`BlockOp`].
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard is or gets closed, and else what the
    /// block map answers: [`OpError::Unsupported`], [`OpError::Map`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// guard.zero_range(2..4).wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn zero_range(&self, pages: impl RangeBounds<u64>) -> BlockOp<'_, M> {
        BlockOp::start(self, PageRange::from_bounds(pages).map(Op::ZeroRange))
    }

    /// Takes `pages` (page indices, half-open) out; every later page moves down. Drains
    /// `pages.start()..`, also beyond the mapping's end.
    ///
    /// # Blocking
    ///
    /// The call itself closes the pages, under the mapping's lock, for one scan of the slots; waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its output, it frees nothing and reopens the pages; see [`BlockOp`].
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard is or gets closed, and else what the
    /// block map answers: [`OpError::Unsupported`], [`OpError::Map`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// assert_eq!(guard.collapse_range(2..4).wait()?, 2);
    /// assert_eq!(guard.map().len(), 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn collapse_range(&self, pages: impl RangeBounds<u64>) -> BlockOp<'_, M> {
        BlockOp::start(self, PageRange::from_bounds(pages).map(Op::CollapseRange))
    }

    /// Makes room for `pages` (page indices, half-open): they become a hole, and what was there and later
    /// moves up. Drains `pages.start()..`, also beyond the mapping's end.
    ///
    /// # Blocking
    ///
    /// The call itself closes the pages, under the mapping's lock, for one scan of the slots; waiting is up to you.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its output, it frees nothing and reopens the pages; see [`BlockOp`].
    ///
    /// # Errors
    ///
    /// The value yields [`OpError::Break`] if the range is wrong or the guard is or gets closed, and else what the
    /// block map answers: [`OpError::Unsupported`], [`OpError::Map`].
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// guard.map().allocate(0..8)?;
    /// guard.insert_range(2..4).wait()?;
    /// assert_eq!(guard.map().len(), 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert_range(&self, pages: impl RangeBounds<u64>) -> BlockOp<'_, M> {
        BlockOp::start(self, PageRange::from_bounds(pages).map(Op::InsertRange))
    }
}

/// A block operation: its pages are closed already. A future, and a blocking call.
///
/// The block map is called on the thread that polls or waits. A timeout bounds the drain, not the
/// engine's own call.
///
/// # Cancel safety
///
/// Dropped before the block map was called, it reopens the pages and nothing was freed. After a timeout
/// it is still what it was, and the pages still closed.
///
/// # Panics
///
/// Polled or waited on again after its output. A panic of the block map goes through; the pages are open
/// again then.
///
/// # Errors
///
/// It yields [`OpError`]; whichever, the pages are open again.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, maps::ExtentMap};
/// use std::time::Duration;
/// let guard = LayoutGuard::new(ExtentMap::new(8));
/// guard.map().allocate(0..8)?;
/// let pin = guard.try_pin(3..4)?;
/// let mut punch = guard.punch_hole(2..5);
/// assert!(punch.wait_timeout(Duration::from_millis(1)).is_none()); // nothing was freed
/// assert_eq!(guard.map().free_blocks(), 0);
/// drop(pin);
/// assert_eq!(punch.wait()?, 3); // or `.await`
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a block operation cancels it: nothing is freed"]
pub struct BlockOp<'g, M: BlockMap> {
    breaking: BreakLayouts<'g, M>,
    op: Option<Op>,
}

impl<'g, M: BlockMap> BlockOp<'g, M> {
    fn start(guard: &'g LayoutGuard<M>, op: Result<Op, RangeError>) -> Self {
        let checked = op.and_then(|op| Ok((op, op.drains()?)));
        Self {
            breaking: match checked {
                Ok((_, drains)) => guard.break_layouts(drains),
                Err(error) => BreakLayouts::failed(guard, error),
            },
            op: checked.ok().map(|(op, _)| op),
        }
    }

    /// The break that it begins with: whom it waits for, whether it is drained.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, maps::ExtentMap};
    /// let guard = LayoutGuard::new(ExtentMap::new(8));
    /// let pin = guard.try_pin(3..4)?;
    /// let punch = guard.punch_hole(2..5);
    /// assert_eq!(punch.breaking().holders().len(), 1);
    /// # drop((punch, pin));
    /// # Ok::<(), layout_lease::TryPinError>(())
    /// ```
    pub fn breaking(&self) -> &BreakLayouts<'g, M> {
        &self.breaking
    }
}

impl<M: BlockMap> Step for BlockOp<'_, M> {
    type Output = Result<u64, OpError<M::Error>>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        // `breaking` panics if this is polled after its output.
        let Poll::Ready(drained) = self.breaking.step(via) else {
            return Poll::Pending;
        };
        Poll::Ready(match (drained, self.op) {
            // The proof is dropped behind the call, on success, error and panic alike: reopened.
            (Ok(proof), Some(op)) => op.run(&proof),
            (Ok(_), None) => Err(OpError::NotCovered),
            (Err(error), _) => Err(error.into()),
        })
    }

    fn progress(&self) -> Option<u64> {
        self.breaking.progress()
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        self.breaking.waiting()
    }
}

waitable! {
    impl['g, M: BlockMap] BlockOp<'g, M> => Result<u64, OpError<M::Error>>;
    panic: "If it has yielded its output before, or if the block map panics.";
}

impl<M: BlockMap> fmt::Debug for BlockOp<'_, M> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockOp")
            .field("op", &self.op)
            .field("breaking", &self.breaking)
            .finish()
    }
}

#[cfg(all(test, not(any(lease_loom, lease_shuttle))))]
mod tests {
    use std::panic::Location;
    use std::process::Command;

    use super::*;
    use crate::maps::ExtentMap;
    use crate::raw::{blocks, slots};

    /// A pin comes into being under a proof, as a broken gate would let it: the scan before the call into
    /// the block map must end the process, loudly. It ends a child's, of course.
    #[test]
    fn i02_verify_scan_catches_a_broken_gate() {
        const CHILD: &str = "LAYOUT_LEASE_TEST_BROKEN_GATE";
        if let Ok(how) = std::env::var(CHILD) {
            let guard = LayoutGuard::new(ExtentMap::new(8));
            guard.map().allocate(0..8).unwrap();
            let proof = guard.break_layouts(0..4).wait().unwrap();
            let pages = PageRange::new(3, 5).unwrap();
            if how == "broken" {
                // Granted without a look at the gate.
                let slot = blocks::publish(guard.record().number(), pages, Location::caller());
                slot.confirm();
            }
            proof.punch_hole(PageRange::new(0, 1).unwrap()).unwrap();
            return;
        }
        let run = |how| {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "block_op::tests::i02_verify_scan_catches_a_broken_gate",
                ])
                .arg("--nocapture")
                .env(CHILD, how)
                .output()
                .unwrap()
        };
        assert!(run("sound").status.success());
        let broken = run("broken");
        let said = String::from_utf8_lossy(&broken.stderr);
        if slots::VERIFY {
            assert!(!broken.status.success());
            assert!(said.contains("although held: pin of pages 3..5"), "{said}");
        } else {
            assert!(broken.status.success(), "no scan was asked for: {said}");
        }
    }
}
