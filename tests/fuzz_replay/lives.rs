//! Arbitrary sequences of operations against the naive twin of `tests/twin.rs`: the same driver and the same
//! twin, but bytes instead of proptest's draws choose the steps, so that a fuzzer can follow coverage.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use layout_lease::Barrier;

use crate::bytes::Bytes;
use crate::driver;
use crate::hands::Hands;
use crate::model::Span;
use crate::steps::{How, Kind, Life, Step, Who};

const STEPS: usize = 96;
/// Kinds of steps, in the order of [`kind_of`].
pub(crate) const KINDS: usize = 33;

const BARRIERS: [Barrier; 3] = [Barrier::Adaptive, Barrier::Fenced, Barrier::Asymmetric];

fn edge(bytes: &mut Bytes<'_>) -> Bound<u64> {
    const EDGES: [u64; 6] = [0, 1, 2, u64::MAX - 2, u64::MAX - 1, u64::MAX];
    let byte = bytes.below(18);
    let page = EDGES[byte % 6];
    match byte / 6 {
        0 => Included(page),
        1 => Excluded(page),
        _ => Unbounded,
    }
}

/// Mostly a few pages of a small universe, in one byte.
fn span(bytes: &mut Bytes<'_>) -> Span {
    let byte = u64::from(bytes.byte());
    let (at, len) = (byte & 15, byte >> 4);
    if len > 0 {
        return (Included(at), Excluded(at + len));
    }
    match bytes.below(8) {
        0 => (Included(at), Unbounded),
        1 => (Unbounded, Excluded(at + 1)),
        2 => (Excluded(at), Included(at + 1 + bytes.below(16) as u64)),
        3 => (Unbounded, Unbounded),
        4 => (Included(at), Excluded(at)),
        5 => (Included(at + 1), Excluded(at)),
        _ => (edge(bytes), edge(bytes)),
    }
}

fn who(bytes: &mut Bytes<'_>) -> Who {
    match bytes.byte() {
        0..=199 => Who::Me,
        byte @ 200..=247 => Who::Hand(usize::from(byte & 1)),
        248.. => Who::Passing,
    }
}

fn kind(bytes: &mut Bytes<'_>) -> Kind {
    [
        Kind::Punch,
        Kind::Zero,
        Kind::Truncate,
        Kind::Collapse,
        Kind::Insert,
    ][bytes.below(5)]
}

fn how(bytes: &mut Bytes<'_>) -> How {
    [How::Poll, How::Timeout, How::Deadline, How::Wait][bytes.below(4)]
}

/// A guard is closed once in its life at most: that is one byte of all.
fn kind_drawn(byte: u8) -> usize {
    match usize::from(byte) {
        close @ 31 => close,
        byte if byte % KINDS == 31 => 22,
        byte => byte % KINDS,
    }
}

pub(crate) fn step(bytes: &mut Bytes<'_>) -> Step {
    let b = bytes;
    match kind_drawn(b.byte()) {
        0 => Step::TryPin(who(b), span(b)),
        1 => Step::Pin(span(b), b.flag()),
        2 => Step::DropPin(b.byte().into(), who(b)),
        3 => Step::Break(span(b), b.flag()),
        4 => Step::TryBreak(span(b)),
        5 => Step::Op(kind(b), span(b)),
        6 => {
            let range = |b: &mut Bytes<'_>| {
                let (at, len) = (b.below(20) as u64, 1 + b.below(3) as u64);
                (at, at + len)
            };
            let n = b.below(4);
            Step::BreakAll((0..n).map(|_| range(b)).collect())
        }
        7 => Step::Lease(span(b), b.flag(), b.flag()),
        8 => Step::DropLease(b.byte().into(), who(b)),
        9 => Step::Shrink(b.byte().into(), span(b), b.flag()),
        10 => Step::Keep(b.byte().into()),
        11 => Step::BreakLeases(span(b)),
        12 => Step::DropFree(b.byte().into()),
        13 => Step::Extend(b.byte().into(), span(b)),
        14 => Step::IntoBreak(b.byte().into()),
        15 => Step::Token(b.byte().into(), who(b)),
        16 => Step::Redeem(b.byte().into(), who(b)),
        17 => Step::Forge(b.byte().into(), b.number()),
        18 => Step::Retire(span(b), b.below(8) as u64),
        19 => Step::Durable(b.below(8) as u64),
        20 => Step::Run(who(b)),
        21 => Step::Ready,
        22 => Step::Try(b.byte().into(), how(b)),
        23 => Step::Cancel(b.byte().into()),
        24 => Step::TryAll(how(b)),
        25 => Step::DropProof(b.byte().into()),
        26 => Step::Split(b.byte().into(), b.below(20) as u64),
        27 => Step::Under(b.byte().into(), kind(b), span(b), b.flag()),
        28 => Step::Allocate(span(b)),
        29 => Step::Look(span(b)),
        30 => Step::Replace(b.below(2)),
        31 => Step::Close,
        // The newest of those who wait goes away.
        _ => Step::Cancel(usize::MAX),
    }
}

/// The number that [`step`] has for a step: with a new kind of step, this no longer compiles.
#[cfg(test)]
pub(crate) fn kind_of(step: &Step) -> usize {
    match step {
        Step::TryPin(..) => 0,
        Step::Pin(..) => 1,
        Step::DropPin(..) => 2,
        Step::Break(..) => 3,
        Step::TryBreak(..) => 4,
        Step::Op(..) => 5,
        Step::BreakAll(..) => 6,
        Step::Lease(..) => 7,
        Step::DropLease(..) => 8,
        Step::Shrink(..) => 9,
        Step::Keep(..) => 10,
        Step::BreakLeases(..) => 11,
        Step::DropFree(..) => 12,
        Step::Extend(..) => 13,
        Step::IntoBreak(..) => 14,
        Step::Token(..) => 15,
        Step::Redeem(..) => 16,
        Step::Forge(..) => 17,
        Step::Retire(..) => 18,
        Step::Durable(..) => 19,
        Step::Run(..) => 20,
        Step::Ready => 21,
        Step::Try(..) => 22,
        Step::Cancel(usize::MAX) => 32,
        Step::Cancel(..) => 23,
        Step::TryAll(..) => 24,
        Step::DropProof(..) => 25,
        Step::Split(..) => 26,
        Step::Under(..) => 27,
        Step::Allocate(..) => 28,
        Step::Look(..) => 29,
        Step::Replace(..) => 30,
        Step::Close => 31,
    }
}

fn life(data: &[u8]) -> Life {
    let mut bytes = Bytes::new(data);
    let (blocks, barrier) = (8 + bytes.below(16) as u64, BARRIERS[bytes.below(3)]);
    let (end, leave) = (bytes.byte().into(), bytes.flag());
    let mut steps = Vec::new();
    while !bytes.is_empty() && steps.len() < STEPS {
        steps.push(step(&mut bytes));
    }
    Life {
        blocks,
        barrier,
        steps,
        end,
        leave,
    }
}

pub(crate) fn run(data: &[u8], hands: &Hands) {
    driver::live(life(data), hands);
    // Whoever was left behind goes now, so that the next input finds what this one has found.
    let nothing = Life {
        blocks: 8,
        barrier: Barrier::Adaptive,
        steps: Vec::new(),
        end: 0,
        leave: false,
    };
    driver::live(nothing, hands);
}
