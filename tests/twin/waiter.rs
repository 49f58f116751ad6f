//! One who waits, of whichever type: tried in every way there is, with a waker that counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use layout_lease::maps::{ExtentError, ExtentMap};
use layout_lease::{
    BlockOp, BreakError, BreakLayouts, Close, Drained, OpError, PagePin, PinError, PinPages,
};

use crate::model::Ticket;
use crate::steps::How;

pub(crate) enum What<'g> {
    Pin(PinPages<'g, ExtentMap>),
    Break(BreakLayouts<'g, ExtentMap>),
    Op(BlockOp<'g, ExtentMap>),
    Close(Close<'g, ExtentMap>),
}

/// What came out.
pub(crate) enum Out<'g> {
    Pin(Result<PagePin, PinError>),
    Proof(Result<Drained<'g, ExtentMap>, BreakError>),
    Freed(Result<u64, OpError<ExtentError>>),
    Closed,
}

/// A waker that counts its calls.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

pub(crate) struct Waiter<'g> {
    pub(crate) what: What<'g>,
    pub(crate) ticket: Ticket,
    /// It has said at least once that it must wait.
    pub(crate) waited: bool,
    alarm: Arc<Alarm>,
    armed: bool,
}

impl<'g> Waiter<'g> {
    pub(crate) fn new(what: What<'g>, ticket: Ticket) -> Self {
        Waiter {
            what,
            ticket,
            waited: false,
            alarm: Arc::default(),
            armed: false,
        }
    }

    /// Whether its waker is registered: it was polled, and not waited on since.
    pub(crate) fn armed(&self) -> bool {
        self.armed
    }

    /// How often its waker was called.
    pub(crate) fn woken(&self) -> usize {
        self.alarm.0.load(SeqCst)
    }

    /// The break at its heart, if there is one.
    pub(crate) fn breaking(&self) -> Option<&BreakLayouts<'g, ExtentMap>> {
        match &self.what {
            What::Break(it) => Some(it),
            What::Op(it) => Some(it.breaking()),
            What::Pin(_) | What::Close(_) => None,
        }
    }

    /// Looks once, without blocking.
    pub(crate) fn try_once(&mut self, how: How) -> Option<Out<'g>> {
        let waker = Waker::from(Arc::clone(&self.alarm));
        let mut cx = Context::from_waker(&waker);
        let cx = &mut cx;
        let out = match &mut self.what {
            What::Pin(it) => {
                look(it, how, cx, PinPages::wait_timeout, PinPages::wait_deadline).map(Out::Pin)
            }
            What::Break(it) => {
                let (timeout, deadline) = (BreakLayouts::wait_timeout, BreakLayouts::wait_deadline);
                look(it, how, cx, timeout, deadline).map(Out::Proof)
            }
            What::Op(it) => {
                look(it, how, cx, BlockOp::wait_timeout, BlockOp::wait_deadline).map(Out::Freed)
            }
            What::Close(it) => {
                look(it, how, cx, Close::wait_timeout, Close::wait_deadline).map(|()| Out::Closed)
            }
        };
        self.armed = out.is_none() && matches!(how, How::Poll);
        self.waited |= out.is_none();
        out
    }

    /// Blocks. Only for those who are known to be ready.
    pub(crate) fn wait(self) -> Out<'g> {
        match self.what {
            What::Pin(it) => Out::Pin(it.wait()),
            What::Break(it) => Out::Proof(it.wait()),
            What::Op(it) => Out::Freed(it.wait()),
            What::Close(it) => {
                it.wait();
                Out::Closed
            }
        }
    }
}

fn look<F: Future + Unpin>(
    it: &mut F,
    how: How,
    cx: &mut Context<'_>,
    timeout: fn(&mut F, Duration) -> Option<F::Output>,
    deadline: fn(&mut F, Instant) -> Option<F::Output>,
) -> Option<F::Output> {
    match how {
        How::Poll => match Pin::new(it).poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        },
        How::Timeout | How::Wait => timeout(it, Duration::ZERO),
        How::Deadline => deadline(it, Instant::now()),
    }
}
