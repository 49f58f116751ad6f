//! Two ways to wait for one thing: a future and a blocking call over the same state machine.
//!
//! Every waitable is a state machine whose [`step`](Step::step) either ends or leaves word with its entry
//! in the queue how its waiter is to be woken, under the lock under which the entry changes. So there is
//! no window between looking and listening (I6). Each entry has an event and a waker of its own: a wake
//! cannot be eaten by another waiter, and dropping one has none to pass on (I8).
//!
//! Blocking calls look again and again for about as long as a wake costs before they sleep: most holders
//! let go within that time, and a wake costs both sides as much. What they look at is a word of the record
//! that changes whenever somebody is to be woken, so they neither take the lock meanwhile nor touch what
//! the holders write. A future never spins.
//!
//! Wakers are other people's code, which may drop or run the task on the spot, and the task may hold
//! pins and breaks. So nothing of theirs is called or dropped under a lock, neither one of ours nor one of
//! the event's; a task's waker is therefore kept beside the event, not in it.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::raw::told::{self, Waiting};
use crate::sync::{Event, EventListener, Listener, MODEL, Mutex, mutant, spin_loop};

/// How the waiter of a step is to be woken.
pub(crate) enum Via<'a> {
    Task(&'a Waker),
    /// Blocks on the listener that is left here.
    Thread(&'a mut Option<EventListener>),
    /// Only looks. What an earlier step has left stays.
    Nobody,
}

/// A state machine that can be waited for.
pub(crate) trait Step {
    type Output;

    /// Goes as far as it can. `Pending` means that word has been left how to wake the waiter.
    fn step(&mut self, via: Via<'_>) -> Poll<Self::Output>;

    /// A number that changes when the waiter is woken, and perhaps when others are. `None`: there is none
    /// to look at.
    fn progress(&self) -> Option<u64>;

    /// Whom it tells the outside that it waits for, if it does.
    fn waiting(&self) -> Option<Waiting<'_>> {
        None
    }
}

/// Where an entry of the queue is told how its waiter is to be woken.
#[derive(Default)]
pub(crate) struct Bell {
    event: Event,
    /// Somebody listens to the event. Changed under the lock under which the bell is hung and taken, so
    /// nobody is overlooked; and ringing costs nothing where nobody does.
    heard: bool,
    task: Option<Waker>,
    /// The others whom the waiter waits for too: the last of them wakes it.
    group: Option<Arc<Group>>,
}

/// Several entries, perhaps of several mappings, with one waiter.
pub(crate) struct Group(Mutex<Together>);

struct Together {
    /// Entries that have not become what they waited to be.
    left: usize,
    /// One of them never will.
    spoilt: bool,
    bell: Bell,
}

impl Group {
    /// A group of `parts` entries.
    pub(crate) fn new(parts: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Together {
            left: parts,
            spoilt: false,
            bell: Bell::default(),
        })))
    }

    /// The bell for one of its entries.
    pub(crate) fn bell(self: &Arc<Self>) -> Bell {
        Bell {
            group: Some(Arc::clone(self)),
            ..Bell::default()
        }
    }

    /// Whether nobody is left to wait for; else leaves a listener.
    pub(crate) fn is_over(&self, via: Via<'_>) -> bool {
        let mut rope = Rope::from(via);
        let mut together = self.0.lock();
        let over = together.left == 0 || together.spoilt;
        if mutant!("group_listens_late") {
            drop(together);
            together = self.0.lock();
        }
        if !over {
            together.bell.hang(&mut rope);
        }
        // The lock goes before what the rope has in it.
        drop(together);
        over
    }

    /// One entry fewer. Not under a record's lock.
    fn rung(&self) {
        let mut together = self.0.lock();
        together.left = together.left.saturating_sub(1);
        let over = together.left == 0 || together.spoilt;
        let bell = over.then(|| std::mem::take(&mut together.bell));
        drop(together);
        if let Some(bell) = bell {
            bell.ring();
        }
    }
}

/// What [`Bell::hang`] needs, made before the lock is taken; dropped when it is released again, with
/// whatever it has replaced.
pub(crate) enum Rope<'a> {
    Task(Option<Waker>),
    Thread(&'a mut Option<EventListener>),
    Nobody,
}

impl<'a> From<Via<'a>> for Rope<'a> {
    fn from(via: Via<'a>) -> Self {
        match via {
            Via::Task(waker) => Rope::Task(Some(waker.clone())),
            Via::Thread(listener) => Rope::Thread(listener),
            Via::Nobody => Rope::Nobody,
        }
    }
}

impl Bell {
    /// Leaves word how to wake the waiter. Under the lock.
    pub(crate) fn hang(&mut self, rope: &mut Rope<'_>) {
        match rope {
            Rope::Task(waker) => std::mem::swap(&mut self.task, waker),
            Rope::Thread(listener) => {
                self.heard = true;
                **listener = Some(self.event.listen());
            }
            Rope::Nobody => {}
        }
    }

    /// Ringing it would be heard by nobody.
    pub(crate) fn is_silent(&self) -> bool {
        !self.heard && self.task.is_none() && self.group.is_none()
    }

    /// Its entry will never become what it waited to be: nobody need wait for the others.
    pub(crate) fn spoil(&mut self) {
        if let Some(group) = &self.group {
            group.0.lock().spoilt = true;
        }
    }

    /// Wakes the waiter. Not under a lock.
    pub(crate) fn ring(self) {
        if let Some(group) = self.group {
            return group.rung();
        }
        if self.heard {
            self.event.notify(usize::MAX);
        }
        if let Some(waker) = self.task {
            waker.wake();
        }
    }
}

pub(crate) fn poll<S: Step>(waitable: &mut S, cx: &mut Context<'_>) -> Poll<S::Output> {
    waitable.step(Via::Task(cx.waker()))
}

#[inline]
pub(crate) fn block<S: Step>(mut waitable: S) -> S::Output {
    // It may be over already.
    match waitable.step(Via::Nobody) {
        Poll::Ready(output) => output,
        Poll::Pending => block_slowly(waitable),
    }
}

#[inline(never)]
fn block_slowly<S: Step>(mut waitable: S) -> S::Output {
    if let Some(output) = spin(&mut waitable, None) {
        return output;
    }
    let mut told = 0;
    loop {
        let mut listener = None;
        if let Poll::Ready(output) = waitable.step(Via::Thread(&mut listener)) {
            return output;
        }
        if let Some(listener) = listener {
            sleep(listener, None, &waitable, &mut told);
        }
    }
}

/// Sleeps until the bell is rung; or until the deadline: `false`.
#[cfg(not(feature = "tracing"))]
fn sleep<S: Step>(
    listener: EventListener,
    deadline: Option<Instant>,
    _waitable: &S,
    _told: &mut u32,
) -> bool {
    match deadline {
        None => listener.wait(),
        Some(deadline) => return listener.wait_deadline(deadline).is_some(),
    }
    true
}

/// Sleeps until the bell is rung, or for so long that it is to be told for whom: then look again; or until the
/// deadline: `false`.
#[cfg(feature = "tracing")]
fn sleep<S: Step>(
    listener: EventListener,
    deadline: Option<Instant>,
    waitable: &S,
    told: &mut u32,
) -> bool {
    let long = Instant::now() + told::LONG;
    let first = deadline.map_or(long, |deadline| deadline.min(long));
    if listener.wait_deadline(first).is_some() {
        return true;
    }
    if first < long {
        return false;
    }
    if let Some(waiting) = waitable.waiting() {
        told::waits(&waiting, *told);
        *told += 1;
    }
    true
}

/// `None`: still waiting.
pub(crate) fn block_until<S: Step>(waitable: &mut S, deadline: Instant) -> Option<S::Output> {
    if let Some(output) = spin(waitable, Some(deadline)) {
        return Some(output);
    }
    let mut told = 0;
    loop {
        let mut listener = None;
        if let Poll::Ready(output) = waitable.step(Via::Thread(&mut listener)) {
            return Some(output);
        }
        if !sleep(listener?, Some(deadline), waitable, &mut told) {
            // A last look: what we waited for may have come just now.
            if let Poll::Ready(output) = waitable.step(Via::Nobody) {
                return Some(output);
            }
            if let Some(waiting) = waitable.waiting() {
                told::timed_out(&waiting);
            }
            return None;
        }
    }
}

/// How long a blocking call looks before it sleeps: about what it costs to be woken on another core.
const SPIN: Duration = Duration::from_micros(20);

/// Looks between two looks at the clock.
const LOOKS: u32 = 32;

/// Looks for about as long as a wake costs. `None`: not over yet.
fn spin<S: Step>(waitable: &mut S, deadline: Option<Instant>) -> Option<S::Output> {
    let mut seen = waitable.progress()?;
    if let Poll::Ready(output) = waitable.step(Via::Nobody) {
        return Some(output);
    }
    if !is_worth_spinning() {
        return None;
    }
    let now = Instant::now();
    let end = deadline.map_or(now + SPIN, |deadline| deadline.min(now + SPIN));
    while Instant::now() < end {
        for _ in 0..LOOKS {
            let now = waitable.progress()?;
            if now == seen {
                spin_loop();
                continue;
            }
            seen = now;
            if let Poll::Ready(output) = waitable.step(Via::Nobody) {
                return Some(output);
            }
        }
    }
    None
}

/// Whether a holder can run while we look: not on a single processor, nor in a model.
fn is_worth_spinning() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    !MODEL && *SEVERAL.get_or_init(has_several_processors)
}

/// Asks for the processors of the machine, not for those that this thread may run on: the holder may run on
/// others.
fn has_several_processors() -> bool {
    match std::fs::read_to_string("/sys/devices/system/cpu/online") {
        Ok(list) => list.contains(['-', ',']),
        Err(_) => std::thread::available_parallelism().is_ok_and(|n| n.get() > 1),
    }
}

/// The moment `timeout` from now, or one that nobody lives to see.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    // 68 years.
    const FAR: Duration = Duration::from_secs(1 << 31);
    let now = Instant::now();
    let moment = now.checked_add(timeout).or_else(|| now.checked_add(FAR));
    moment.unwrap_or(now)
}

/// Gives a [`Step`] its future and its blocking calls.
macro_rules! waitable {
    (
        impl [$($generics:tt)*] $ty:ty => $output:ty;
        panic: $panic:literal;
    ) => {
        impl<$($generics)*> Future for $ty {
            type Output = $output;

            fn poll(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Self::Output> {
                $crate::raw::wait::poll(self.get_mut(), cx)
            }
        }

        impl<$($generics)*> $ty {
            /// Blocks the thread until there is an output.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            ///
            /// # Examples
            ///
            /// See [`LayoutGuard::break_layouts`](crate::LayoutGuard::break_layouts).
            pub fn wait(self) -> $output {
                $crate::raw::wait::block(self)
            }

            /// Blocks the thread until there is an output or `timeout` has passed. `None`: still
            /// waiting. The value stays usable, and what is closed stays closed.
            ///
            /// A zero timeout looks once and does not block.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            ///
            /// # Examples
            ///
            /// See [`LayoutGuard::break_layouts`](crate::LayoutGuard::break_layouts).
            #[must_use = "it may be waiting still: `None`"]
            pub fn wait_timeout(&mut self, timeout: std::time::Duration) -> Option<$output> {
                self.wait_deadline($crate::raw::wait::deadline(timeout))
            }

            /// Blocks the thread until there is an output or `deadline` has come. `None`: still
            /// waiting. The value stays usable, and what is closed stays closed.
            ///
            /// # Panics
            ///
            #[doc = $panic]
            ///
            /// # Examples
            ///
            /// See [`LayoutGuard::break_layouts`](crate::LayoutGuard::break_layouts).
            #[must_use = "it may be waiting still: `None`"]
            pub fn wait_deadline(&mut self, deadline: std::time::Instant) -> Option<$output> {
                $crate::raw::wait::block_until(self, deadline)
            }
        }
    };
}

pub(crate) use waitable;
