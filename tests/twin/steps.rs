//! What may happen: the steps, and how proptest draws them.
//!
//! Pages are drawn from a small universe, so that ranges meet often; beside it there are open ends, the
//! two ends of the `u64` line, and ranges that are no ranges. Values name their victims by a number that
//! the driver takes modulo however many there are.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use layout_lease::Barrier;
use proptest::prelude::*;

use crate::model::Span;

/// Who does it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Me,
    /// A thread that lives on.
    Hand(usize),
    /// A thread that is gone afterwards.
    Passing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Punch,
    Zero,
    Truncate,
    Collapse,
    Insert,
}

/// How to try whether a wait is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    Poll,
    Timeout,
    Deadline,
    /// By the blocking call, if the twin says that it will not block.
    Wait,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    TryPin(Who, Span),
    /// A waitable pin; polled at once, or left as it is.
    Pin(Span, bool),
    DropPin(usize, Who),
    /// By reference, or by an `Arc`.
    Break(Span, bool),
    TryBreak(Span),
    /// For a truncate, the range's first number is the new length.
    Op(Kind, Span),
    /// A break of several ranges, or of none.
    BreakAll(Vec<(u64, u64)>),
    /// A waitable lease, with a name or without; polled at once, or left as it is.
    Lease(Span, bool, bool),
    DropLease(usize, Who),
    /// To pages like these, or to as much of them as is part of the lease.
    Shrink(usize, Span, bool),
    /// The holder of a lease does nothing but wait for its recall from now on.
    Keep(usize),
    BreakLeases(Span),
    DropFree(usize),
    Extend(usize, Span),
    IntoBreak(usize),
    /// A pin becomes a number.
    Token(usize, Who),
    Redeem(usize, Who),
    /// A number that is no token any more, or is beside one that is: by so much.
    Forge(usize, u64),
    Retire(Span, u64),
    Durable(u64),
    Run(Who),
    Ready,
    Try(usize, How),
    /// One who waits goes away; the newest, so that a queue can shrink from behind, or any.
    Cancel(usize),
    /// Whoever can be answered is.
    TryAll(How),
    DropProof(usize),
    Split(usize, u64),
    /// An operation under a proof in hand: of pages like these, or of what the proof covers.
    Under(usize, Kind, Span, bool),
    Allocate(Span),
    Look(Span),
    /// A thread exits, and a new one inherits its slots, pins and all.
    Replace(usize),
    Close,
}

fn bound(page: u64, kind: u8) -> Bound<u64> {
    match kind {
        0 => Included(page),
        1 => Excluded(page),
        _ => Unbounded,
    }
}

/// Mostly a few pages of a small universe.
fn span() -> impl Strategy<Value = Span> {
    let edge = || prop::sample::select(vec![0, 1, 2, u64::MAX - 2, u64::MAX - 1, u64::MAX]);
    prop_oneof![
        24 => (0u64..16, 1u64..6).prop_map(|(at, len)| (Included(at), Excluded(at + len))),
        2 => (0u64..16).prop_map(|at| (Included(at), Unbounded)),
        1 => (1u64..16).prop_map(|at| (Unbounded, Excluded(at))),
        1 => (0u64..16, 0u64..16).prop_map(|(a, b)| (Excluded(a), Included(a + b + 1))),
        1 => Just((Unbounded, Unbounded)),
        1 => (0u64..16).prop_map(|at| (Included(at), Excluded(at))),
        1 => (1u64..16).prop_map(|at| (Included(at), Excluded(at - 1))),
        3 => (edge(), 0u8..3, edge(), 0u8..3).prop_map(|(a, i, b, j)| (bound(a, i), bound(b, j))),
    ]
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        12 => Just(Who::Me),
        4 => (0usize..2).prop_map(Who::Hand),
        1 => Just(Who::Passing),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Punch,
        Kind::Zero,
        Kind::Truncate,
        Kind::Collapse,
        Kind::Insert,
    ])
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Poll),
        2 => Just(How::Timeout),
        1 => Just(How::Deadline),
        1 => Just(How::Wait),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    prop_oneof![
        12 => (who(), span()).prop_map(|(who, span)| Step::TryPin(who, span)),
        8 => (span(), any::<bool>()).prop_map(|(span, poll)| Step::Pin(span, poll)),
        16 => (n(), who()).prop_map(|(which, who)| Step::DropPin(which, who)),
        5 => (span(), any::<bool>()).prop_map(|(span, arc)| Step::Break(span, arc)),
        4 => span().prop_map(Step::TryBreak),
        6 => (kind(), span()).prop_map(|(kind, span)| Step::Op(kind, span)),
        20 => (n(), how()).prop_map(|(which, how)| Step::Try(which, how)),
        7 => how().prop_map(Step::TryAll),
        4 => n().prop_map(Step::Cancel),
        20 => n().prop_map(Step::DropProof),
        4 => (n(), 0u64..20).prop_map(|(which, page)| Step::Split(which, page)),
        5 => (n(), kind(), span(), any::<bool>())
            .prop_map(|(which, kind, span, fit)| Step::Under(which, kind, span, fit)),
        6 => span().prop_map(Step::Allocate),
        2 => span().prop_map(Step::Look),
        2 => (0usize..2).prop_map(Step::Replace),
        36 => held_long(),
    ]
}

/// Pages in the small universe, in no order.
fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec(
        (0u64..20, 1u64..4).prop_map(|(at, len)| (at, at + len)),
        0..4,
    )
}

/// What goes beyond pins and breaks of one range.
fn held_long() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    let forged = prop_oneof![
        Just(0),
        0u64..4,
        (0u64..4).prop_map(|n| n << 32),
        any::<u64>()
    ];
    prop_oneof![
        10 => (span(), any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(span, named, poll)| Step::Lease(span, named, poll)),
        8 => (n(), who()).prop_map(|(which, who)| Step::DropLease(which, who)),
        6 => (n(), span(), prop::bool::weighted(0.8))
            .prop_map(|(which, span, fit)| Step::Shrink(which, span, fit)),
        4 => n().prop_map(Step::Keep),
        5 => span().prop_map(Step::BreakLeases),
        10 => n().prop_map(Step::DropFree),
        4 => ranges().prop_map(Step::BreakAll),
        7 => (n(), span()).prop_map(|(which, span)| Step::Extend(which, span)),
        3 => n().prop_map(Step::IntoBreak),
        4 => (n(), who()).prop_map(|(which, who)| Step::Token(which, who)),
        4 => (n(), who()).prop_map(|(which, who)| Step::Redeem(which, who)),
        2 => (n(), forged).prop_map(|(which, by)| Step::Forge(which, by)),
        5 => (span(), prop_oneof![Just(0), 0u64..8])
            .prop_map(|(span, lsn)| Step::Retire(span, lsn)),
        5 => (0u64..8).prop_map(Step::Durable),
        12 => who().prop_map(Step::Run),
        2 => Just(Step::Ready),
    ]
}

/// What may happen on a closed guard.
fn last() -> impl Strategy<Value = Step> {
    prop_oneof![12 => step(), 1 => Just(Step::Close)]
}

/// One life of a guard.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) blocks: u64,
    pub(crate) barrier: Barrier,
    pub(crate) steps: Vec<Step>,
    /// In what order what is left is given back.
    pub(crate) end: usize,
    /// Whether pins are left behind, to outlive their guard.
    pub(crate) leave: bool,
}

pub(crate) fn life() -> impl Strategy<Value = Life> {
    let steps = || prop::collection::vec(step(), 1..96);
    let closing = (steps(), prop::collection::vec(last(), 0..16)).prop_map(|(mut steps, last)| {
        steps.push(Step::Close);
        steps.extend(last);
        steps
    });
    let steps = prop_oneof![4 => steps(), 1 => closing];
    let barrier = prop::sample::select(vec![
        Barrier::Adaptive,
        Barrier::Fenced,
        Barrier::Asymmetric,
    ]);
    (8u64..24, barrier, steps, any::<usize>(), any::<bool>()).prop_map(
        |(blocks, barrier, steps, end, leave)| Life {
            blocks,
            barrier,
            steps,
            end,
            leave,
        },
    )
}
