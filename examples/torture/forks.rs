//! Forks: in the child of a fork, the parent's guards and what they gave may only be dropped. Nothing may
//! hang there, though the locks of threads that are not there are never released, and nothing may be
//! freed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use layout_lease::LayoutGuard;

use crate::engine::PAGES;
use crate::lives::Life;
use crate::tally::add;
use crate::watch::Watch;

/// Milliseconds, counted one by one, that a child may take to drop some values. The watchdog waits for longer:
/// it knows of no child.
const PATIENCE: u32 = 20_000;

/// Forks with a pin, a lease, a proof, a waiting break and the guard in hand, while others use the guard.
pub(crate) fn fork(life: &Life<'_>, watch: &Watch) {
    let guard = &life.guards[0];
    let alive = guard.map().alive();
    // Pages that nobody else wants, so that this thread need not wait.
    let pin = guard.try_pin(PAGES + 8..PAGES + 9).ok();
    let lease = guard.lease(PAGES + 9..PAGES + 10).wait().ok();
    let proof = guard.try_break_layouts(PAGES + 10..PAGES + 11).ok();
    let mut waiting = guard.break_layouts(PAGES + 8..PAGES + 10);
    let mut cx = Context::from_waker(Waker::noop());
    // It waits, unless somebody has closed the guard, or a break of everything behind is in the way.
    let held = Pin::new(&mut waiting).poll(&mut cx).is_pending();

    // SAFETY: the child has this thread alone. It drops what it has copies of, and ends without running
    // anything else of the parent's; the system's allocator can be used after a fork.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1, "no fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        drop((pin, lease, proof, waiting));
        // SAFETY: a copy of the parent's guard, which nothing here uses again.
        drop(unsafe { std::ptr::read::<LayoutGuard<_>>(Arc::as_ptr(guard)) });
        let freed = alive.strong_count() == 0;
        // SAFETY: ends the child, without the parent's handlers.
        unsafe { libc::_exit(i32::from(freed)) };
    }
    let mut status = -1;
    let mut naps = 0;
    // SAFETY: `status` is written before it is read.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        thread::sleep(Duration::from_millis(1));
        life.tidy();
        naps += 1;
        if naps == PATIENCE {
            // SAFETY: the child is ours, and not waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            watch.hang("the child of a fork");
        }
    }
    let ended = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    assert!(ended, "the child of a fork ended with status {status:#x}");
    add(&life.tally.forks, 1);
    watch.beat();

    // What the child dropped, the parent still has.
    if held && pin.is_some() && lease.is_some() {
        assert!(
            !waiting.is_drained(),
            "the child gave the parent's pin back"
        );
    }
    drop((pin, lease, proof));
    // Now it is drained, or whoever is in the way will go.
    while waiting.wait_timeout(Duration::from_millis(1)).is_none() {
        life.tidy();
    }
}
