//! Who holds pages: the answer to "what is this break waiting for?".

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::range::PageRange;

/// How a holder holds its pages.
///
/// # Examples
///
/// See [`Holder`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HolderKind {
    /// A pin: one operation in flight.
    Pin,
    /// A lease: a long-lived, recallable hold.
    Lease,
}

/// One who holds pages: what it holds, since when, and where in the source it took them.
///
/// A snapshot. The holder may have let go by the time you look at it.
///
/// # Examples
///
/// ```
/// use layout_lease::{HolderKind, LayoutGuard, PageRange};
///
/// let guard = LayoutGuard::<()>::default();
/// let pin = guard.try_pin(3..5)?;
/// let holder = &guard.holders(..)[0];
/// assert_eq!(holder.range(), PageRange::new(3, 5)?);
/// assert_eq!(holder.kind(), HolderKind::Pin);
/// assert_eq!(holder.location().file(), file!());
/// assert_eq!(holder.thread(), Some(std::thread::current().id()));
/// # drop(pin);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Holder {
    range: PageRange,
    kind: HolderKind,
    location: &'static Location<'static>,
    label: Option<Cow<'static, str>>,
    thread: Option<ThreadId>,
    since: Option<Instant>,
}

impl Holder {
    #[track_caller]
    pub(crate) fn new(
        range: PageRange,
        kind: HolderKind,
        location: Option<&'static Location<'static>>,
        thread: Option<ThreadId>,
        since: Option<Instant>,
    ) -> Self {
        Self {
            range,
            kind,
            location: location.unwrap_or_else(|| Location::caller()),
            label: None,
            thread,
            since,
        }
    }

    pub(crate) fn labelled(mut self, label: Option<Cow<'static, str>>) -> Self {
        self.label = label;
        self
    }

    /// The pages it holds.
    ///
    /// # Examples
    ///
    /// See [`Holder`].
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Whether it is a pin or a lease.
    ///
    /// # Examples
    ///
    /// See [`Holder`].
    pub fn kind(&self) -> HolderKind {
        self.kind
    }

    /// Where in the source the pages were taken.
    ///
    /// # Examples
    ///
    /// See [`Holder`].
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The name it was given, if any.
    ///
    /// # Examples
    ///
    /// See [`LeasePages::labelled`](crate::LeasePages::labelled).
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The thread that took the pages, where that is still known: not once that thread is gone, and not
    /// for a pin that was granted to a waiter by the thread that reopened the range.
    ///
    /// # Examples
    ///
    /// See [`Holder`].
    pub fn thread(&self) -> Option<ThreadId> {
        self.thread
    }

    /// How long it has held the pages, as far as anybody looked at a clock: pins do not, so for a pin it
    /// is how long the oldest break that overlaps it has been waiting, and `None` if none does.
    ///
    /// # Examples
    ///
    /// ```
    /// use layout_lease::LayoutGuard;
    /// let guard = LayoutGuard::<()>::default();
    /// let pin = guard.try_pin(0..4)?;
    /// assert!(guard.holders(..)[0].age().is_none()); // a pin looks at no clock
    /// let breaking = guard.break_layouts(0..4);
    /// assert!(breaking.holders()[0].age().is_some()); // but who waits for it has
    /// # drop((breaking, pin));
    /// # Ok::<(), layout_lease::TryPinError>(())
    /// ```
    pub fn age(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HolderKind::Pin => "pin",
            HolderKind::Lease => "lease",
        };
        write!(
            f,
            "{kind} of pages {} taken at {}",
            self.range, self.location
        )?;
        if let Some(label) = &self.label {
            write!(f, " ({label})")?;
        }
        if let Some(thread) = self.thread {
            write!(f, " by {thread:?}")?;
        }
        if let Some(age) = self.age() {
            let what = match self.kind {
                HolderKind::Pin => "awaited",
                HolderKind::Lease => "held",
            };
            write!(f, ", {what} for {age:.1?}")?;
        }
        Ok(())
    }
}
