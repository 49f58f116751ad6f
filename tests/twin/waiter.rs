//! One who waits, of whichever type: tried in every way there is, with a waker that counts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use layout_lease::maps::{ExtentError, ExtentMap};
use layout_lease::{
    BlockOp, BreakError, BreakLayouts, BreakLeases, Close, Drained, LayoutLease, LeaseFree,
    LeasePages, OpError, PagePin, PageRange, PinError, PinPages, Retired, RetiredReady,
};

use crate::model::Ticket;
use crate::steps::How;

/// A lease whose holder does nothing but wait until it is recalled.
type Keeper<'g> = Pin<Box<dyn Future<Output = (LayoutLease, PageRange)> + 'g>>;

pub(crate) enum What<'g> {
    Pin(PinPages<'g, ExtentMap>),
    Lease(LeasePages<'g, ExtentMap>),
    Break(BreakLayouts<'g, ExtentMap>),
    LeaseBreak(BreakLeases<'g, ExtentMap>),
    Op(BlockOp<'g, ExtentMap>),
    Retired(Retired<ExtentMap>),
    Ready(RetiredReady<'g, ExtentMap>),
    Recall(Keeper<'g>),
    Close(Close<'g, ExtentMap>),
}

impl What<'_> {
    pub(crate) fn keep(lease: LayoutLease) -> Self {
        What::Recall(Box::pin(async move {
            let wanted = lease.recalled().await;
            (lease, wanted)
        }))
    }
}

/// What came out.
pub(crate) enum Out<'g> {
    Pin(Result<PagePin, PinError>),
    Lease(Result<LayoutLease, PinError>),
    Proof(Result<Drained<'g, ExtentMap>, BreakError>),
    Free(Result<LeaseFree<'g, ExtentMap>, BreakError>),
    Freed(Result<u64, OpError<ExtentError>>),
    Ready,
    Recalled(LayoutLease, PageRange),
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
    /// The name that a lease is asked for under.
    pub(crate) label: Option<&'static str>,
    alarm: Arc<Alarm>,
    armed: bool,
    /// How often its waker had been called when it was last registered.
    before: usize,
}

impl<'g> Waiter<'g> {
    pub(crate) fn new(what: What<'g>, ticket: Ticket) -> Self {
        Waiter {
            what,
            ticket,
            waited: false,
            label: None,
            alarm: Arc::default(),
            armed: false,
            before: 0,
        }
    }

    /// Whether its waker is registered: it was polled, and not waited on since.
    pub(crate) fn armed(&self) -> bool {
        self.armed
    }

    /// How often its waker was called since it was registered.
    pub(crate) fn woken(&self) -> usize {
        self.alarm.0.load(SeqCst) - self.before
    }

    /// The break at its heart, if there is one.
    pub(crate) fn breaking(&self) -> Option<&BreakLayouts<'g, ExtentMap>> {
        match &self.what {
            What::Break(it) => Some(it),
            What::Op(it) => Some(it.breaking()),
            _ => None,
        }
    }

    /// Looks once, without blocking.
    pub(crate) fn try_once(&mut self, how: How) -> Option<Out<'g>> {
        let waker = Waker::from(Arc::clone(&self.alarm));
        let mut cx = Context::from_waker(&waker);
        let cx = &mut cx;
        self.before = self.alarm.0.load(SeqCst);
        /// Asks in each way there is.
        macro_rules! look {
            ($it:ident: $ty:ident) => {
                look($it, how, cx, $ty::wait_timeout, $ty::wait_deadline)
            };
        }
        let out = match &mut self.what {
            What::Pin(it) => look!(it: PinPages).map(Out::Pin),
            What::Lease(it) => look!(it: LeasePages).map(Out::Lease),
            What::Break(it) => look!(it: BreakLayouts).map(Out::Proof),
            What::LeaseBreak(it) => look!(it: BreakLeases).map(Out::Free),
            What::Op(it) => look!(it: BlockOp).map(Out::Freed),
            What::Retired(it) => look!(it: Retired).map(Out::Freed),
            What::Ready(it) => look!(it: RetiredReady).map(|()| Out::Ready),
            What::Close(it) => look!(it: Close).map(|()| Out::Closed),
            What::Recall(it) => match it.as_mut().poll(cx) {
                Poll::Ready((lease, wanted)) => Some(Out::Recalled(lease, wanted)),
                Poll::Pending => None,
            },
        };
        let polled = matches!(how, How::Poll) || matches!(self.what, What::Recall(_));
        self.armed = out.is_none() && polled;
        self.waited |= out.is_none();
        out
    }

    /// Blocks. Only for those who are known to be ready.
    pub(crate) fn wait(self) -> Out<'g> {
        match self.what {
            What::Pin(it) => Out::Pin(it.wait()),
            What::Lease(it) => Out::Lease(it.wait()),
            What::Break(it) => Out::Proof(it.wait()),
            What::LeaseBreak(it) => Out::Free(it.wait()),
            What::Op(it) => Out::Freed(it.wait()),
            What::Retired(it) => Out::Freed(it.wait()),
            What::Ready(it) => {
                it.wait();
                Out::Ready
            }
            What::Close(it) => {
                it.wait();
                Out::Closed
            }
            What::Recall(it) => {
                let (lease, wanted) = futures_lite::future::block_on(it);
                Out::Recalled(lease, wanted)
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
