//! Arbitrary ranges and page sizes against arithmetic in `u128`, which cannot overflow here; then the same
//! ranges pinned and closed, where the gate and the scan must find the same overlaps.

use std::ops::{Bound, Range};

use layout_lease::{LayoutGuard, PageRange, RangeError, TryBreakError, TryPinError};

use crate::bytes::Bytes;
use crate::outcome::Seen;

type Made = Result<PageRange, RangeError>;
type Bounds = (Bound<u64>, Bound<u64>);

/// What is tried: the crate's functions, or for the control broken ones.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) covering: fn(Range<u64>, u64) -> Made,
    pub(crate) within: fn(Range<u64>, u64) -> Result<Option<PageRange>, RangeError>,
    pub(crate) from_bounds: fn(Bounds) -> Made,
}

pub(crate) const REAL: Subject = Subject {
    covering: PageRange::covering_bytes,
    within: PageRange::within_bytes,
    from_bounds: |bounds| PageRange::from_bounds(bounds),
};

/// A range as it should be: not empty, its page behind the last at most `u64::MAX`.
fn expected(start: u128, end: u128) -> Made {
    let (Ok(lo), Ok(hi)) = (u64::try_from(start), u64::try_from(end)) else {
        return Err(RangeError::Unaddressable);
    };
    match start.cmp(&end) {
        std::cmp::Ordering::Less => Ok(PageRange::new(lo, hi).expect("not empty")),
        std::cmp::Ordering::Equal => Err(RangeError::Empty { at: lo }),
        std::cmp::Ordering::Greater => Err(RangeError::Inverted { start: lo, end: hi }),
    }
}

/// The range that `bounds` should be.
fn bounded(bounds: Bounds) -> Made {
    let start = match bounds.0 {
        Bound::Included(page) => page.into(),
        Bound::Excluded(page) => u128::from(page) + 1,
        Bound::Unbounded => 0,
    };
    let end = match bounds.1 {
        Bound::Included(page) => u128::from(page) + 1,
        Bound::Excluded(page) => page.into(),
        // All there is from `start` on: if that is nothing, then the page that has no number.
        Bound::Unbounded => u128::from(u64::MAX).max(start + 1),
    };
    expected(start, end)
}

/// The pages of bytes: outward, or inward.
fn converted(bytes: Range<u64>, page_size: u64, outward: bool) -> Result<(u128, u128), RangeError> {
    if !page_size.is_power_of_two() {
        return Err(RangeError::PageSize { page_size });
    }
    expected(bytes.start.into(), bytes.end.into())?;
    let (start, end, size) = (
        u128::from(bytes.start),
        u128::from(bytes.end),
        u128::from(page_size),
    );
    Ok(match outward {
        true => (start / size, end.div_ceil(size)),
        false => (start.div_ceil(size), end / size),
    })
}

fn bound(bytes: &mut Bytes<'_>) -> Bound<u64> {
    let kind = bytes.below(3);
    let page = bytes.number();
    match kind {
        0 => Bound::Included(page),
        1 => Bound::Excluded(page),
        _ => Bound::Unbounded,
    }
}

fn told(seen: &mut Seen, made: &Made) {
    seen.push(match made {
        Ok(_) => "a range",
        Err(RangeError::Empty { .. }) => "empty",
        Err(RangeError::Inverted { .. }) => "inverted",
        Err(RangeError::Unaddressable) => "unaddressable",
        Err(RangeError::PageSize { .. }) => "page size",
        Err(other) => panic!("{other}: nothing here is held"),
    });
}

pub(crate) fn run(data: &[u8], subject: Subject, seen: &mut Seen) {
    let mut bytes = Bytes::new(data);
    let mut ranges = Vec::new();
    for _ in 0..3 {
        let bounds = (bound(&mut bytes), bound(&mut bytes));
        let made = (subject.from_bounds)(bounds);
        assert_eq!(made, bounded(bounds), "from_bounds({bounds:?})");
        told(seen, &made);
        ranges.extend(made.ok());
    }

    let (start, end) = (bytes.number(), bytes.number());
    let size = match bytes.byte() {
        power @ 0..=191 => 1 << (power % 64),
        _ => bytes.number(),
    };
    let made = PageRange::new(start, end);
    assert_eq!(
        made,
        expected(start.into(), end.into()),
        "new({start}, {end})"
    );
    told(seen, &made);
    ranges.extend(made.ok());

    let covering = (subject.covering)(start..end, size);
    let pages = converted(start..end, size, true).and_then(|(lo, hi)| expected(lo, hi));
    assert_eq!(covering, pages, "covering_bytes({start}..{end}, {size})");
    told(seen, &covering);

    let within = (subject.within)(start..end, size);
    let pages = converted(start..end, size, false).map(|(lo, hi)| expected(lo, hi).ok());
    assert_eq!(within, pages, "within_bytes({start}..{end}, {size})");
    if let (Ok(outer), Ok(inner)) = (covering, within) {
        seen.push(if inner.is_some() {
            "whole pages"
        } else {
            "no whole page"
        });
        assert!(inner.is_none_or(|inner| outer.intersection(&inner) == Some(inner)));
        ranges.push(outer);
    }

    ranges.iter().for_each(|range| alone(*range));
    for a in &ranges {
        for b in &ranges {
            together(*a, *b, seen);
        }
    }
    if let [a, b, c, ..] = ranges[..] {
        held(a, b, c, seen);
    }
}

fn alone(range: PageRange) {
    let (start, end) = (range.start(), range.end());
    assert_eq!(u128::from(range.len()), u128::from(end) - u128::from(start));
    assert!(range.contains(start) && range.contains(end - 1) && !range.contains(end));
    assert!(start == 0 || !range.contains(start - 1));
    assert_eq!(PageRange::from_bounds(range), Ok(range));
    let text = range.to_string();
    let (first, behind) = text.split_once("..").expect("two dots");
    assert_eq!(first.parse(), Ok(start));
    assert_eq!(behind.parse().unwrap_or(u64::MAX), end);
}

fn together(a: PageRange, b: PageRange, seen: &mut Seen) {
    let (start, end) = (a.start().max(b.start()), a.end().min(b.end()));
    let shared = expected(start.into(), end.into()).ok();
    assert_eq!(a.intersection(&b), shared, "{a} and {b}");
    assert_eq!(a.overlaps(&b), shared.is_some(), "{a} and {b}");
    seen.push(if shared.is_some() { "overlap" } else { "apart" });
    let order = (a.start(), a.end()).cmp(&(b.start(), b.end()));
    assert_eq!(a.cmp(&b), order);
}

/// `a` is pinned, `b` is closed, and somebody else wants `c`.
fn held(a: PageRange, b: PageRange, c: PageRange, seen: &mut Seen) {
    let guard = LayoutGuard::<()>::default();
    let pin = guard.try_pin(a).expect("nothing is closed");
    let lease = guard.lease(a).wait().expect("nothing is closed");
    match guard.try_break_layouts(b) {
        Ok(_) => assert!(!a.overlaps(&b), "{a} is held, and {b} was drained"),
        Err(TryBreakError::Busy(holders)) => {
            assert!(a.overlaps(&b) && holders.len() == 2, "{a}, {b}");
            seen.push("busy");
        }
        Err(other) => panic!("{other}"),
    }
    drop((pin, lease));
    let proof = guard.try_break_layouts(b).expect("nobody holds anything");
    assert_eq!(proof.covers(c), b.intersection(&c) == Some(c));
    match guard.try_pin(c) {
        Ok(pin) => assert!(!b.overlaps(&c) && pin.range() == c, "{b}, {c}"),
        Err(TryPinError::Breaking) => {
            assert!(b.overlaps(&c), "{b} is closed, {c} was refused");
            seen.push("refused");
        }
        Err(other) => panic!("{other}"),
    }
    drop(proof);
    assert!(guard.try_pin(c).is_ok());
}
