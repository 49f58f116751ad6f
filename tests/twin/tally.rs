//! The tally: how often each kind of event came about. A kind that never did was not tested.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use layout_lease::maps::ExtentError;
use layout_lease::{BreakError, OpError, RangeError};

use crate::model::Op;

macro_rules! events {
    ($($event:ident: $text:literal,)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Event { $($event),* }

        const TEXTS: &[&str] = &[$($text),*];
    };
}

events! {
    Pinned: "pins",
    PinnedElsewhere: "pins by other threads",
    PinnedInPassing: "pins by threads that then exit",
    Orphans: "pins whose thread exits",
    PinRefused: "pins refused: breaking",
    PinWaits: "pins that wait",
    PinGranted: "pins granted after waiting",
    PinCancelled: "pins cancelled while waiting",
    GrantLost: "pins granted, cancelled unfetched",
    Unpinned: "pins dropped",
    UnpinnedElsewhere: "pins dropped by other threads",
    LeftBehind: "pins that outlive their guard",
    Recalled: "pins that see a break of theirs",
    Breaks: "breaks",
    BreakWaits: "breaks that wait",
    BreakQueued: "breaks behind another ticket",
    Proofs: "breaks drained: proofs",
    ProofsAfterWait: "breaks drained after a wait",
    PolledInVain: "breaks and others polled in vain",
    TimedOut: "timeouts",
    BreakCancelled: "breaks cancelled while waiting",
    DrainedCancelled: "breaks cancelled when drained",
    TryBreaks: "try_breaks with a proof",
    TryBusy: "try_breaks refused: busy",
    TryBreaking: "try_breaks refused: breaking",
    Splits: "proofs split",
    NoSplits: "proofs that cannot be split there",
    Reopened: "proofs dropped",
    Woken: "wakers called",
    Punched: "punch_hole done",
    Zeroed: "zero_range done",
    Truncated: "truncate done",
    Collapsed: "collapse_range done",
    Inserted: "insert_range done",
    OpWaits: "block operations that wait",
    OpCancelled: "block operations cancelled",
    Under: "operations under a proof in hand",
    NotCovered: "operations not covered",
    Freed: "blocks freed",
    Moved: "mapped pages moved",
    Allocated: "blocks allocated",
    OutOfSpace: "errors: out of space",
    OutOfRange: "errors: out of range",
    Overflow: "errors: overflow",
    Empty: "errors: empty range",
    Inverted: "errors: inverted range",
    Unaddressable: "errors: unaddressable page",
    Closed: "guards closed",
    CloseWaits: "closes that wait",
    CloseCancelled: "closes cancelled",
    RefusedAtClose: "waiters refused by a close",
    RefusedClosed: "calls refused on a closed guard",
    Leased: "leases",
    LeaseWaits: "leases that wait",
    LeaseGranted: "leases granted after waiting",
    LeaseCancelled: "leases cancelled while waiting",
    LeaseLost: "leases granted, cancelled unfetched",
    LeaseGivenBack: "leases given back",
    LeaseElsewhere: "leases given back by other threads",
    LeaseBehind: "leases that outlive their guard",
    LeaseWanted: "leases that see a break of theirs",
    Shrunk: "leases made smaller",
    ShrunkOut: "leases shrunk out of a break",
    NotAPart: "errors: not a part of the lease",
    Kept: "leases whose holder awaits a recall",
    RecallHeard: "recalls heard",
    RecallGone: "recalls awaited that came and went",
    LeaseBreaks: "breaks of leases",
    LeaseBreakWaits: "breaks of leases that wait",
    LeaseFree: "breaks of leases drained",
    BesideBreak: "breaks of leases drained beside a break",
    BreakAll: "breaks of several ranges",
    ApartProofs: "proofs of ranges that are apart",
    ExtendedOpen: "extensions where nothing is closed",
    ExtendedThrough: "extensions through a break",
    ExtensionAgain: "extensions of extensions refused",
    Stranger: "extensions refused",
    IntoBreak: "holders who break their pages",
    NotIntoBreak: "holders who cannot: closed",
    Tokens: "pins turned into tokens",
    TokensElsewhere: "tokens made by other threads",
    Redeemed: "tokens redeemed",
    RedeemedElsewhere: "tokens redeemed by other threads",
    Stale: "stale or forged tokens",
    TokenBehind: "tokens that outlive their guard",
    Retired: "retirements",
    RetiredWaits: "retirements that wait",
    RetiredRun: "retirements run by run_retired",
    RetiredRunElsewhere: "retirements run by other threads",
    RetiredWaited: "retirements run by waiting for them",
    RetiredTold: "retirements run by others, waited for",
    RetiredDetached: "retirements detached",
    RetiredUndurable: "retirements drained, not durable",
    RetiredAtClose: "retirements run by a close",
    RetiredGivenUp: "retirements given up by a close",
    ReadyHeard: "retired_ready: there is work",
    ReadyNever: "retired_ready: there never will be any",
    ReadyInVain: "retired_ready: there is none",
    ReadyTooLate: "retired_ready: another took it",
}

static COUNTS: [AtomicU64; TEXTS.len()] = [const { AtomicU64::new(0) }; TEXTS.len()];

pub(crate) fn count(event: Event) {
    count_many(event, 1);
}

pub(crate) fn count_many(event: Event, n: u64) {
    COUNTS[event as usize].fetch_add(n, Relaxed);
}

/// Prints the table, past the capture of the test harness, and returns what never happened.
pub(crate) fn report(head: &str) -> Vec<&'static str> {
    let rows = TEXTS.iter().zip(&COUNTS);
    let rows: Vec<(&str, u64)> = rows.map(|(text, n)| (*text, n.load(Relaxed))).collect();
    let mut table = format!("{head}\n");
    for pair in rows.chunks(2) {
        for (text, n) in pair {
            table += &format!("  {n:>9} {text:<34}");
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    std::io::stderr().write_all(table.as_bytes()).ok();
    let never = rows.into_iter().filter(|(_, n)| *n == 0);
    never.map(|(text, _)| text).collect()
}

// ---- which kind it was ---------------------------------------------------------------------------

/// A range that was none.
pub(crate) fn bad_range(error: RangeError) {
    count(match error {
        RangeError::Empty { .. } => Event::Empty,
        RangeError::Inverted { .. } => Event::Inverted,
        RangeError::Unaddressable => Event::Unaddressable,
        RangeError::Outside { .. } => Event::NotAPart,
        _ => unreachable!("no page size was given"),
    });
}

/// A guard that was closed, before or after the call.
pub(crate) fn refused(waited: bool) {
    count(match waited {
        true => Event::RefusedAtClose,
        false => Event::RefusedClosed,
    });
}

/// A break that brought no proof.
pub(crate) fn failed(error: BreakError, waited: bool) {
    match error {
        BreakError::Range(error) => bad_range(error),
        _ => refused(waited),
    }
}

/// A block map that would not.
pub(crate) fn map_failed(error: ExtentError) {
    match error {
        ExtentError::OutOfSpace { .. } => count(Event::OutOfSpace),
        ExtentError::OutOfRange { .. } => count(Event::OutOfRange),
        ExtentError::Overflow { .. } => count(Event::Overflow),
        ExtentError::Range(error) => bad_range(error),
        _ => unreachable!("no such error"),
    }
}

/// A block operation that was done; `before` are the pages that had blocks.
pub(crate) fn op_done(op: Op, result: &Result<u64, OpError<ExtentError>>, before: &[u64]) {
    let behind = |page| before.iter().filter(|&&p| p >= page).count() as u64;
    match result {
        Ok(freed) => {
            count_many(Event::Freed, *freed);
            count(match op {
                Op::Punch(_) => Event::Punched,
                Op::Zero(_) => Event::Zeroed,
                Op::Truncate(_) => Event::Truncated,
                Op::Collapse(_) => Event::Collapsed,
                Op::Insert(_) => Event::Inserted,
            });
            count_many(
                Event::Moved,
                match op {
                    Op::Collapse(pages) => behind(pages.hi),
                    Op::Insert(pages) => behind(pages.lo),
                    _ => 0,
                },
            );
        }
        Err(OpError::Map(error)) => map_failed(*error),
        Err(error) => panic!("{op:?}: {error}"),
    }
}
