//! Breaks over several guards: one order for all, one sleep, one proof for each.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use crate::drained::Drained;
use crate::error::BreakError;
use crate::guard::{GuardRef, LayoutGuard};
use crate::holders::Holder;
use crate::range::{PageRange, RangeError};
use crate::raw::entry::Ranges;
use crate::raw::record::Record;
use crate::raw::told::{self, Waiting};
use crate::raw::turns::Turn;
use crate::raw::wait::{Group, Step, Via, waitable};
use crate::raw::wakes;
use crate::sync::mutant;

mod sealed {
    use crate::guard::LayoutGuard;
    use crate::raw::record::Record;

    pub trait Sealed {
        #[doc(hidden)]
        fn one_of_many(&self) -> Part;
    }

    /// What a break of several guards has to know of one.
    #[allow(missing_debug_implementations, reason = "nobody outside can name it")]
    #[derive(Clone, Copy)]
    pub struct Part(pub(super) &'static Record);

    impl<M> Sealed for LayoutGuard<M> {
        fn one_of_many(&self) -> Part {
            Part(self.record())
        }
    }
}

/// A [`LayoutGuard`] of any mapping. Nothing else implements it.
///
/// # Examples
///
/// See [`break_layouts_of`].
pub trait AnyGuard: sealed::Sealed {}

impl<M> AnyGuard for LayoutGuard<M> {}

/// Breaks ranges of several guards together, of any block maps: closes them all now, and waits for all in
/// one sleep.
///
/// The tickets of all guards are taken in one step, so two who name the same guards, in whichever order,
/// have their turns in the same order everywhere: they do not deadlock, and do not spin. A guard may be
/// named several times.
///
/// For an engine that moves extents from one file to another, which the kernel's `break_layouts` of two
/// files can only do by trying again and again.
///
/// # Blocking
///
/// The call takes the locks of these mappings together, for the scans and one barrier. Waiting is up to you.
///
/// # Cancel safety
///
/// Dropping the value at any point reopens everything.
///
/// # Errors
///
/// The value yields [`BreakError::Closed`] if one of the guards is or gets closed, and
/// [`BreakError::Range`] if no guard is named.
///
/// # Examples
///
/// ```
/// use layout_lease::{AnyGuard, LayoutGuard, PageRange, break_layouts_of, maps::ExtentMap};
/// let source = LayoutGuard::new(ExtentMap::new(8));
/// let target = LayoutGuard::<()>::default();
/// source.map().allocate(0..8)?;
///
/// let pages = PageRange::new(0, 4)?;
/// let proofs = break_layouts_of(&[(&source, pages), (&target, pages)]).wait()?;
/// assert!(target.try_pin(0..1).is_err());
/// proofs.of(&source).unwrap().punch_hole(pages)?;
/// drop(proofs); // both are open again
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn break_layouts_of<'g>(parts: &[(&'g dyn AnyGuard, PageRange)]) -> BreakMany<'g> {
    let mut all: Vec<(&'static Record, PageRange)> = parts
        .iter()
        .map(|(guard, pages)| (guard.one_of_many().0, *pages))
        .collect();
    // Two who name the same mappings in opposite orders must not lock them so.
    if !mutant!("locked_as_named") {
        all.sort_by_key(|(record, _)| record.order());
    }
    let parts: Vec<(&'static Record, Ranges)> = all
        .chunk_by(|(a, _), (b, _)| a.order() == b.order())
        .map(|same| {
            let ranges = same.iter().map(|(_, pages)| *pages).collect();
            (same[0].0, Ranges::normalized(ranges))
        })
        .collect();
    let group = Group::new(parts.len());
    let state = if parts.is_empty() {
        State::Failed(RangeError::Empty { at: 0 }.into())
    } else {
        match Record::close_together(&parts, &group) {
            Ok(turns) => State::Queued(Parts::new(parts, turns)),
            Err(_) => State::Failed(BreakError::Closed),
        }
    };
    BreakMany {
        group,
        state,
        guards: PhantomData,
    }
}

/// Entries in the queues of several mappings. Dropped, it takes them out.
struct Parts(Vec<Part>);

struct Part {
    record: &'static Record,
    ranges: Ranges,
    id: u64,
    /// When it was found that it has to wait.
    since: Option<Instant>,
}

impl Parts {
    fn new(parts: Vec<(&'static Record, Ranges)>, turns: Vec<Turn>) -> Self {
        let part = |((record, ranges), turn): (_, Turn)| Part {
            record,
            ranges,
            id: turn.id,
            since: turn.since,
        };
        Parts(parts.into_iter().zip(turns).map(part).collect())
    }
}

impl Part {
    /// Whom it tells the outside that it waits for.
    fn waiting(&self) -> Option<Waiting<'_>> {
        Some(Waiting {
            ranges: self.ranges.as_slice(),
            since: self.since?,
        })
    }
}

impl Parts {
    fn are_drained(&self) -> bool {
        self.0.iter().all(|p| p.record.is_drained(p.id))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // A waker that panics in one mapping leaves no other closed (I8).
        wakes::for_each(self.0.iter(), |part| part.record.reopen(part.id));
    }
}

/// A break of ranges of several guards: they are closed already. From [`break_layouts_of`]. A future, and
/// a blocking call.
///
/// # Cancel safety
///
/// Dropped at any point, it reopens all ranges, and whoever waited for them goes on. After a timeout it is
/// still what it was, and the ranges still closed.
///
/// # Panics
///
/// Polled or waited on again after its output.
///
/// # Examples
///
/// See [`break_layouts_of`].
#[must_use = "dropping a break reopens its ranges at once"]
pub struct BreakMany<'g> {
    group: Arc<Group>,
    state: State,
    /// The guards outlive it.
    guards: PhantomData<&'g ()>,
}

enum State {
    Failed(BreakError),
    Queued(Parts),
    Done,
}

impl BreakMany<'_> {
    /// Everybody who holds pages that it closes, in whichever guard.
    ///
    /// # Blocking
    ///
    /// Takes the lock of each mapping in turn, for one scan of the slots.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange, break_layouts_of};
    /// let (a, b) = (LayoutGuard::<()>::default(), LayoutGuard::<()>::default());
    /// let pin = b.try_pin(0..1)?;
    /// let breaking = break_layouts_of(&[(&a, PageRange::ALL), (&b, PageRange::ALL)]);
    /// assert_eq!(breaking.holders().len(), 1);
    /// # drop((breaking, pin));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        match &self.state {
            State::Queued(Parts(parts)) => {
                let each = parts.iter();
                each.flat_map(|part| part.record.holders(part.ranges.as_slice()))
                    .collect()
            }
            State::Failed(_) | State::Done => Vec::new(),
        }
    }

    /// Whether waiting would end at once with the proofs.
    ///
    /// # Blocking
    ///
    /// Takes the lock of each mapping in turn, for a moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::{LayoutGuard, PageRange, break_layouts_of};
    /// let (a, b) = (LayoutGuard::<()>::default(), LayoutGuard::<()>::default());
    /// let pin = b.try_pin(0..1)?;
    /// let breaking = break_layouts_of(&[(&a, PageRange::ALL), (&b, PageRange::ALL)]);
    /// assert!(!breaking.is_drained());
    /// drop(pin);
    /// assert!(breaking.is_drained());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_drained(&self) -> bool {
        match &self.state {
            State::Queued(parts) => parts.are_drained(),
            State::Failed(_) | State::Done => false,
        }
    }
}

impl<'g> Step for BreakMany<'g> {
    type Output = Result<DrainedMany<'g>, BreakError>;

    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output> {
        if let State::Queued(parts) = &self.state {
            // The last wake may still be on its way, behind wakers that take their time, or that look here.
            if !parts.are_drained() && !self.group.is_over(via) {
                return Poll::Pending;
            }
        }
        Poll::Ready(match std::mem::replace(&mut self.state, State::Done) {
            State::Failed(error) => Err(error),
            State::Queued(parts) => {
                if parts.are_drained() {
                    let waited = parts.0.iter().find_map(Part::waiting);
                    if let (true, Some(waiting)) = (told::LISTENED, waited) {
                        told::drained(&waiting);
                    }
                    Ok(DrainedMany {
                        parts,
                        guards: PhantomData,
                    })
                } else {
                    Err(BreakError::Closed)
                }
            }
            State::Done => panic!("`BreakMany` polled after its output"),
        })
    }

    fn progress(&self) -> Option<u64> {
        // Each mapping has its own; their sum changes with each.
        match &self.state {
            State::Queued(Parts(parts)) => {
                let each = parts.iter().map(|part| part.record.progress());
                Some(each.fold(0, u64::wrapping_add))
            }
            State::Failed(_) | State::Done => Some(0),
        }
    }

    fn waiting(&self) -> Option<Waiting<'_>> {
        match &self.state {
            // The first that still waits: one wait for all.
            State::Queued(Parts(parts)) => {
                let mut waits = parts.iter().filter(|p| !p.record.is_drained(p.id));
                waits.find_map(Part::waiting)
            }
            State::Failed(_) | State::Done => None,
        }
    }
}

waitable! {
    impl['g] BreakMany<'g> => Result<DrainedMany<'g>, BreakError>;
    panic: "If it has yielded its output before.";
}

impl fmt::Debug for BreakMany<'_> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Failed(_) => "failed",
            State::Queued(_) => "queued",
            State::Done => "done",
        };
        let ranges: Vec<_> = match &self.state {
            State::Queued(Parts(parts)) => parts.iter().map(|p| p.ranges.as_slice()).collect(),
            State::Failed(_) | State::Done => Vec::new(),
        };
        f.debug_struct("BreakMany")
            .field("ranges", &ranges)
            .field("state", &state)
            .finish()
    }
}

/// The proofs of several guards, from [`break_layouts_of`]. Dropping it reopens all ranges.
///
/// # Blocking
///
/// Dropping it takes the lock of each mapping in turn, grants pages to those who waited for them, and wakes those.
///
/// # Examples
///
/// See [`break_layouts_of`].
#[must_use = "dropping the proofs reopens the ranges at once"]
pub struct DrainedMany<'g> {
    parts: Parts,
    guards: PhantomData<&'g ()>,
}

impl DrainedMany<'_> {
    /// The proof of one of the guards; `None` if `guard` is not one of them.
    ///
    /// # Examples
    ///
    /// See [`break_layouts_of`].
    pub fn of<'a, M>(&'a self, guard: &'a LayoutGuard<M>) -> Option<DrainedOf<'a, M>> {
        let ours = |part: &&Part| std::ptr::eq(part.record, guard.record());
        let part = self.parts.0.iter().find(ours)?;
        let guard = GuardRef::Borrowed(guard);
        let lent = Drained::lent(guard, part.ranges.clone(), part.id);
        Some(DrainedOf(lent))
    }
}

impl fmt::Debug for DrainedMany<'_> {
    /// Never blocks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.parts.0.iter().map(|part| part.ranges.as_slice());
        f.debug_list().entries(ranges).finish()
    }
}

/// One guard's proof, lent by [`DrainedMany::of`]: a [`Drained`] that reopens nothing when it is dropped.
///
/// # Examples
///
/// See [`break_layouts_of`].
pub struct DrainedOf<'a, M>(Drained<'a, M>);

impl<'a, M> Deref for DrainedOf<'a, M> {
    type Target = Drained<'a, M>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<M> fmt::Debug for DrainedOf<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
