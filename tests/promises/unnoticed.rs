//! Lines that could be broken without any other test noticing, as mutants have shown. Each test says which.

use std::mem;
use std::sync::Arc;

use layout_lease::{LayoutGuard, Retired, TryPinError};

use crate::support::{Ask, Bell, Engine, assert_clean, bare, is_open, pages};

type Guard = Arc<LayoutGuard<Engine>>;

fn freeing() -> Guard {
    Arc::new(Engine::guard(|_, proof| Ok(proof.ranges()[0].len())))
}

/// Two retired pages, and nothing else that is closed, can be freed once the log has come to 1.
fn assert_freed(guard: &Guard, mut retired: Retired<Engine>) {
    guard.durable(1);
    assert_eq!((guard.run_retired(), retired.now()), (2, Ok(2)));
    assert!(is_open(guard, pages(0, 9)));
    assert_clean(guard);
}

// ---- what others close ----------------------------------------------------------------------------

/// The short way to reopen opens the whole gate: it is for a break that is alone, and beside retired pages that
/// wait for the log none is.
#[test]
fn i01_retired_pages_stay_closed_when_a_break_elsewhere_reopens() {
    let guard = freeing();
    let retired = guard.retire_after(4..6, 1);
    drop(guard.try_break_layouts(0..1).unwrap());
    assert_eq!(guard.try_pin(5..6).unwrap_err(), TryPinError::Breaking);
    let mut breaking = guard.break_layouts(8..9);
    drop(breaking.now().unwrap());
    assert!(!is_open(&guard, pages(4, 5)) && is_open(&guard, pages(6, 9)));
    assert_freed(&guard, retired);
}

/// The same, where the break was there first: nothing has told the gate yet that the pages lie on the shelf.
#[test]
fn i01_pages_retired_beside_a_proof_stay_closed_when_it_reopens() {
    let guard = freeing();
    let proof = guard.try_break_layouts(0..1).unwrap();
    let retired = guard.retire_after(4..6, 1);
    drop(proof);
    assert!(!is_open(&guard, pages(4, 5)) && is_open(&guard, pages(0, 4)));
    assert_freed(&guard, retired);
}

/// One release may drain several retirements, of which those behind the first wait for the log: there is work all
/// the same.
#[test]
fn i06_work_is_told_of_though_the_log_holds_back_what_was_drained_with_it() {
    let guard = freeing();
    let pin = guard.try_pin(0..8).unwrap();
    drop((guard.retire(0..4), guard.retire_after(4..8, 1)));
    let (bell, mut ready) = (Bell::new(), guard.retired_ready());
    assert!(bell.poll(&mut ready).is_pending());
    drop(pin);
    assert_eq!(bell.rung(), 1);
    ready.now();
    assert_eq!(guard.run_retired(), 4);
    guard.durable(1);
    assert_eq!(guard.run_retired(), 4);
    assert_clean(&guard);
}

/// A guard that is closed does not take back what it has granted: whoever has waited for it may fetch it still,
/// and until it is given back the closing is not over.
#[test]
fn i05_a_granted_pin_can_be_fetched_after_the_close() {
    let guard = bare();
    let proof = guard.try_break_layouts(0..4).unwrap();
    let [mut granted, mut late] = [guard.pin(0..1), guard.pin(2..3)];
    granted.assert_waits();
    late.assert_waits();
    drop(proof);
    let mut closing = guard.close();
    closing.assert_waits();
    drop(granted.now().unwrap());
    closing.assert_waits();
    drop(late.now().unwrap());
    closing.now();
}

#[test]
fn a_guard_is_closed_when_somebody_has_closed_it() {
    let guard = bare();
    assert!(!guard.is_closed());
    drop(guard.try_break_layouts(..).unwrap());
    assert!(!guard.is_closed());
    drop(guard.close());
    assert!(guard.is_closed());
}

/// Those that wait for the log are in the queue, too, as far as people are told.
#[test]
fn retirements_that_wait_for_the_log_are_counted_one_by_one() {
    let guard = freeing();
    let retired = [1, 3, 5].map(|page| guard.retire_after(page..=page, 1));
    assert_eq!((guard.stats().queued, guard.stats().retired_pages), (3, 3));
    guard.durable(1);
    assert_eq!((guard.run_retired(), guard.stats().queued), (3, 0));
    drop(retired);
    assert_clean(&guard);
}

// ---- what is let go -------------------------------------------------------------------------------

/// The short way to take out a break forgets its entry, which it may only if nobody has left a waker there.
#[test]
fn i08_a_dropped_break_has_let_go_of_the_waker() {
    let (guard, bell) = (bare(), Bell::new());
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    assert!(bell.poll(&mut breaking).is_pending());
    drop(breaking);
    assert_eq!((Arc::strong_count(&bell), bell.rung()), (1, 0));
    drop(pin);
}

#[test]
fn i08_a_dropped_reclaimer_has_let_go_of_the_waker() {
    let guard = freeing();
    let [bell, other] = [Bell::new(), Bell::new()];
    let [mut ready, mut stays] = [guard.retired_ready(), guard.retired_ready()];
    assert!(bell.poll(&mut ready).is_pending() && other.poll(&mut stays).is_pending());
    drop(ready);
    assert_eq!(
        (Arc::strong_count(&bell), Arc::strong_count(&other)),
        (1, 2)
    );
    drop(guard.retire(0..1));
    assert_eq!((bell.rung(), other.rung()), (0, 1));
    stays.now();
    assert_eq!(guard.run_retired(), 1);
}

/// What was forgotten goes with the guard, not only with the last holder.
#[test]
fn i09_a_dropped_guard_has_let_go_of_the_wakers_of_what_was_forgotten() {
    let (guard, bell) = (bare(), Bell::new());
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    assert!(bell.poll(&mut breaking).is_pending());
    mem::forget(breaking);
    drop(guard);
    assert_eq!((Arc::strong_count(&bell), bell.rung()), (1, 0));
    drop(pin);
}

/// Retired pages are listed in tables that are replaced at each change; the old ones are used again.
#[cfg(target_os = "linux")]
#[test]
fn retirements_that_come_and_go_take_no_more_memory() {
    use crate::support::{alone, is_alone};

    if !is_alone() {
        let (status, text) = alone("unnoticed::retirements_that_come_and_go_take_no_more_memory");
        return assert!(status.success(), "{text}");
    }
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let guard = freeing();
    let standing: Vec<_> = (0..40)
        .map(|n| guard.retire_after(2 * n..2 * n + 1, u64::MAX))
        .collect();
    let again = |rounds: u64| {
        for lsn in 1..=rounds {
            drop(guard.retire_after(1_000..1_001, 0));
            assert_eq!(guard.run_retired(), 1, "{lsn}");
        }
    };
    again(200);
    let before = resident();
    again(8_000);
    let grown = resident().saturating_sub(before);
    // It would be 16 MiB.
    assert!(grown < 2 << 10, "{grown} KiB more for the same pages");
    drop(standing);
}

/// Each break is counted once, whether it is alone, waits, or is refused.
#[test]
fn breaks_are_counted() {
    let guard = bare();
    let counts = || (guard.stats().breaks, guard.stats().breaks_waited);
    drop(guard.break_layouts(0..1).now().unwrap());
    drop(guard.try_break_layouts(0..1).unwrap());
    assert_eq!(counts(), (2, 0));
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    breaking.assert_waits();
    assert!(guard.try_break_layouts(4..5).is_ok() && guard.try_break_layouts(0..1).is_err());
    drop(pin);
    drop(breaking.now().unwrap());
    assert_eq!(counts(), (4, 1));
}
