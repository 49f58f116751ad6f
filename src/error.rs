//! The errors: one small enum per operation.

use thiserror::Error;

use crate::holders::Holder;
use crate::range::RangeError;

/// Why [`try_pin`](crate::LayoutGuard::try_pin) did not pin.
///
/// # Examples
///
/// See [`try_pin`](crate::LayoutGuard::try_pin) and [`extend`](crate::PagePin::extend).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TryPinError {
    /// A break is active or queued on some page of the range; [`pin`](crate::LayoutGuard::pin)
    /// would wait for it.
    #[error("a break is active or queued on the range")]
    Breaking,
    /// The guard is closed: there will be no pins any more.
    #[error("the layout guard is closed")]
    Closed,
    /// The pin to be extended belongs to another guard.
    #[error("the pin belongs to another layout guard")]
    WrongGuard,
    /// The range itself is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// Why [`pin`](crate::LayoutGuard::pin) did not pin.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, PinError};
/// let guard = LayoutGuard::<()>::default();
/// assert!(matches!(guard.pin(4..4).wait(), Err(PinError::Range(_))));
/// guard.close().wait();
/// assert_eq!(guard.pin(0..4).wait().unwrap_err(), PinError::Closed);
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// The guard is closed: there will be no pins any more.
    #[error("the layout guard is closed")]
    Closed,
    /// The range itself is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// Why [`break_layouts`](crate::LayoutGuard::break_layouts) yielded no proof.
///
/// # Examples
///
/// ```
/// use layout_lease::{BreakError, LayoutGuard};
/// let guard = LayoutGuard::<()>::default();
/// assert!(matches!(guard.break_layouts(4..4).wait(), Err(BreakError::Range(_))));
/// guard.close().wait();
/// assert_eq!(guard.break_layouts(0..4).wait().unwrap_err(), BreakError::Closed);
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BreakError {
    /// The guard was closed before the range was drained.
    #[error("the layout guard is closed")]
    Closed,
    /// The range itself is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// Why [`try_break_layouts`](crate::LayoutGuard::try_break_layouts) yielded no proof.
///
/// Whatever the reason, nothing is closed any more when it is returned.
///
/// # Examples
///
/// See [`try_break_layouts`](crate::LayoutGuard::try_break_layouts).
#[non_exhaustive]
#[derive(Clone, Debug, Error)]
pub enum TryBreakError {
    /// Somebody holds pages of the range; here is who.
    #[error("the range is held by {} pin(s) or lease(s)", .0.len())]
    Busy(Vec<Holder>),
    /// Another break, or a pin that waits for one, is ahead of this one in the queue.
    #[error("another break is active or queued on the range")]
    Breaking,
    /// The guard is closed.
    #[error("the layout guard is closed")]
    Closed,
    /// The range itself is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// Why a block operation failed. `E` is the block map's own error.
///
/// Whatever the reason, the range is open again when an operation of
/// [`LayoutGuard`](crate::LayoutGuard) returns it.
///
/// The message of [`Map`](Self::Map) says only that the block map failed: why is in its
/// [`source`](std::error::Error::source), or in the variant.
///
/// # Examples
///
/// ```
/// use layout_lease::{LayoutGuard, OpError, maps::ExtentMap};
/// let guard = LayoutGuard::new(ExtentMap::new(8));
/// match guard.collapse_range(0..4).wait() {
///     Err(OpError::Map(error)) => eprintln!("{error}"), // the engine's own: there are no pages yet
///     Err(OpError::Unsupported) => eprintln!("do without"),
///     other => panic!("{other:?}"),
/// }
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpError<E> {
    /// The block map does not know this operation.
    #[error("the block map does not support this operation")]
    Unsupported,
    /// The block map knows the operation, tried, and failed. This is its own error.
    #[error("the block map failed")]
    Map(#[source] E),
    /// The range is wrong or the guard closed, so there was no proof, and the block map was not called.
    #[error(transparent)]
    Break(BreakError),
    /// The proof at hand does not cover every page that the operation touches.
    #[error("the proof does not cover all pages of the operation")]
    NotCovered,
    /// The proof at hand was given for another mapping.
    #[error("the proof was given for another mapping")]
    WrongMapping,
}

impl<E> From<BreakError> for OpError<E> {
    fn from(e: BreakError) -> Self {
        OpError::Break(e)
    }
}

impl<E> From<RangeError> for OpError<E> {
    fn from(e: RangeError) -> Self {
        OpError::Break(e.into())
    }
}
