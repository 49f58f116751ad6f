//! What is told to the outside: events (feature `tracing`) and numbers (feature `metrics`).
//!
//! Only slow paths tell anything, and never under a lock, nor from the drop of a pin: whoever listens may do
//! as it likes. Without the features nothing of this is compiled in.
//!
//! While a wait lasts, blocking calls tell of it, also those with a timeout. A future is not polled before it is
//! woken, so its long wait is told when it is over.

use std::time::Instant;

use crate::range::PageRange;

/// Whether anybody may be listening.
pub(crate) const LISTENED: bool = cfg!(any(feature = "tracing", feature = "metrics"));

/// A wait that lasts longer than this is told, and told again each time that as much has passed.
#[cfg(feature = "tracing")]
pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(1);

/// Somebody who waits for holders.
#[cfg_attr(
    not(feature = "tracing"),
    allow(dead_code, reason = "read by events alone")
)]
pub(crate) struct Waiting<'a> {
    pub(crate) ranges: &'a [PageRange],
    pub(crate) since: Instant,
}

/// A break has got its proof, and had to wait for it.
pub(crate) fn drained(waiting: &Waiting<'_>) {
    let waited = waiting.since.elapsed();
    #[cfg(feature = "metrics")]
    metrics::histogram!("layout_lease_break_wait_seconds").record(waited);
    #[cfg(feature = "tracing")]
    if waited >= LONG {
        let ranges = waiting.ranges;
        tracing::warn!(
            ?ranges,
            ?waited,
            "a break has got its proof after a long wait"
        );
    }
    let _ = waited;
}

/// A break has waited for long, and somebody was told so `before` times.
#[cfg(feature = "tracing")]
pub(crate) fn waits(waiting: &Waiting<'_>, before: u32) {
    let (ranges, waited) = (waiting.ranges, waiting.since.elapsed());
    match before {
        0 => tracing::warn!(?ranges, ?waited, "a break waits for holders"),
        _ => tracing::warn!(?ranges, ?waited, before, "a break still waits for holders"),
    }
}

/// A timeout has passed; the break is still what it was.
pub(crate) fn timed_out(waiting: &Waiting<'_>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("layout_lease_break_timeouts_total").increment(1);
    #[cfg(feature = "tracing")]
    {
        let (ranges, waited) = (waiting.ranges, waiting.since.elapsed());
        tracing::info!(?ranges, ?waited, "a break has not got its proof in time");
    }
    let _ = waiting;
}

/// A break has recalled this many leases.
pub(crate) fn recalled(ranges: &[PageRange], leases: usize) {
    if leases == 0 {
        return;
    }
    #[cfg(feature = "metrics")]
    metrics::counter!("layout_lease_recalls_total").increment(leases as u64);
    #[cfg(feature = "tracing")]
    tracing::debug!(?ranges, leases, "a break recalls leases");
    let _ = ranges;
}

/// A guard was dropped under this many live holders: its map is kept until they are gone, for ever if they were
/// forgotten.
pub(crate) fn left_behind(holders: usize) {
    #[cfg(feature = "metrics")]
    metrics::counter!("layout_lease_guards_left_behind_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(
        holders,
        "a guard was dropped while somebody holds its pages"
    );
    let _ = holders;
}

/// A retirement has come to its end, its blocks have not been freed, and nobody waits for it.
pub(crate) fn retired_in_vain(pages: Option<PageRange>) {
    #[cfg(feature = "metrics")]
    metrics::counter!("layout_lease_retirements_failed_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(?pages, "the blocks of a retirement have not been freed");
    let _ = pages;
}

/// A break has been called.
pub(crate) fn broke(waits: bool) {
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("layout_lease_breaks_total").increment(1);
        if waits {
            metrics::counter!("layout_lease_breaks_waited_total").increment(1);
        }
    }
    let _ = waits;
}
