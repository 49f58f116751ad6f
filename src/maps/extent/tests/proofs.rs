//! The map under a proof, and through its guard: which proof an operation takes, and what it answers.

use super::*;
use crate::{BreakError, LayoutGuard};

type Answer = Result<u64, OpError<ExtentError>>;

/// The five operations on pages 4..6 (truncate: to 4), under `proof`.
fn all_five(map: &ExtentMap, proof: &Drained<'_, ExtentMap>) -> [Answer; 5] {
    let pages = pages(4..6);
    [
        map.punch_hole(pages, proof),
        map.zero_range(pages, proof),
        map.insert_range(pages, proof),
        map.collapse_range(pages, proof),
        map.truncate(4, proof),
    ]
}

fn ten_pages() -> LayoutGuard<ExtentMap> {
    let guard = LayoutGuard::new(ExtentMap::new(100));
    guard.map().allocate(0..10).unwrap();
    guard
}

#[test]
fn a_proof_of_another_map_is_refused_even_if_it_covers_everything() {
    let (mine, other) = (ten_pages(), ten_pages());
    let before = mine.map().state.lock().clone();
    // The second is wrong in both ways: what it is of comes first.
    for pages in [PageRange::ALL, pages(0..1)] {
        let proof = other.break_layouts(pages).wait().unwrap();
        for answer in all_five(mine.map(), &proof) {
            assert_eq!(answer, Err(OpError::WrongMapping));
        }
    }
    assert_eq!(*mine.map().state.lock(), before);
}

#[test]
fn a_proof_must_cover_every_page_that_changes() {
    let guard = ten_pages();
    let before = guard.map().state.lock().clone();
    let under = |pages: PageRange| {
        let proof = guard.break_layouts(pages).wait().unwrap();
        all_five(guard.map(), &proof)
    };
    for short in [pages(5..u64::MAX), pages(0..5)] {
        assert_eq!(under(short), [(); 5].map(|()| Err(OpError::NotCovered)));
    }
    assert_eq!(*guard.map().state.lock(), before);
    // Enough for punch and zero; the others move or free up to the last page there can be.
    for short in [pages(4..6), pages(4..u64::MAX - 1)] {
        let [punch, zero, rest @ ..] = under(short);
        assert!(punch.is_ok() && zero.is_ok());
        assert_eq!(rest, [(); 3].map(|()| Err(OpError::NotCovered)));
    }
    // Exactly enough for all: 4..6 are holes by now, 6..10 go with the truncate.
    assert_eq!(
        under(pages(4..u64::MAX)),
        [Ok(0), Ok(0), Ok(0), Ok(0), Ok(4)]
    );
}

#[test]
fn truncate_to_the_very_end_needs_no_page_but_the_right_map() {
    let (mine, other) = (ten_pages(), ten_pages());
    let proof = other.break_layouts(..).wait().unwrap();
    assert_eq!(
        mine.map().truncate(u64::MAX, &proof),
        Err(OpError::WrongMapping)
    );
    let proof = mine.break_layouts(0..1).wait().unwrap();
    assert_eq!(mine.map().truncate(u64::MAX, &proof), Ok(0));
    assert_eq!(mine.map().len(), u64::MAX);
}

#[test]
fn the_operations_work_through_the_guard() {
    let guard = ten_pages();
    let map = guard.map();
    assert_eq!(guard.punch_hole(2..4).wait(), Ok(2));
    assert_eq!(guard.zero_range(9..12).wait(), Ok(1));
    assert_eq!(guard.insert_range(0..5).wait(), Ok(0));
    assert_eq!(
        (map.len(), map.lookup(5), map.lookup(7)),
        (17, Some(0), None)
    );
    assert_eq!(guard.collapse_range(0..6).wait(), Ok(1));
    assert_eq!(guard.truncate(5).wait(), Ok(3));
    assert_eq!(
        (map.len(), map.free_blocks(), map.mapped_blocks()),
        (5, 97, 3)
    );
    assert_eq!(list(map.extents()), [(0..1, 1), (3..5, 4)]);
    assert_eq!(map.blocks(), 100);
    map.state.lock().check(100);

    let end = pages(3..5);
    let error = ExtentError::OutOfRange { pages: end, len: 5 };
    assert_eq!(guard.collapse_range(end).wait(), Err(OpError::Map(error)));
    let beyond = pages(5..7);
    let error = ExtentError::OutOfRange {
        pages: beyond,
        len: 5,
    };
    assert_eq!(guard.insert_range(beyond).wait(), Err(OpError::Map(error)));
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
fn a_wrong_range_is_a_typed_error() {
    let guard = ten_pages();
    let map = guard.map();
    let before = map.state.lock().clone();
    let empty = RangeError::Empty { at: 3 };
    let inverted = RangeError::Inverted { start: 5, end: 3 };
    assert_eq!(map.allocate(3..3), Err(ExtentError::Range(empty)));
    assert_eq!(map.allocate(5..3), Err(ExtentError::Range(inverted)));
    assert_eq!(
        map.allocate(..=u64::MAX),
        Err(ExtentError::Range(RangeError::Unaddressable))
    );
    assert_eq!(map.extents_in(3..3), Err(empty));
    let answer = guard.punch_hole(3..3).wait();
    assert_eq!(answer, Err(OpError::Break(BreakError::Range(empty))));
    assert_eq!(*map.state.lock(), before);
}

#[test]
fn debug_shows_counts_and_does_not_wait() {
    let map = ExtentMap::new(100);
    map.allocate(0..10).unwrap();
    let shown = "ExtentMap { blocks: 100, free: 90, len: 10, extents: 1 }";
    assert_eq!(format!("{map:?}"), shown);
    let (send, shown) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let held = map.state.lock();
        scope.spawn(|| send.send(format!("{map:?}")));
        let shown = shown.recv_timeout(std::time::Duration::from_secs(120));
        assert_eq!(shown.as_deref(), Ok("ExtentMap { blocks: 100, .. }"));
        drop(held);
    });
}

#[test]
fn the_messages_say_what_was_asked_and_what_there_was() {
    let full = ExtentMap::new(1).allocate(0..2).unwrap_err();
    assert_eq!(full.to_string(), "out of space: 2 block(s) needed, 1 free");
    let len = 3;
    let error = ExtentError::OutOfRange {
        pages: pages(3..5),
        len,
    };
    let text = "pages 3..5 lie at or beyond the end: the length is 3 page(s)";
    assert_eq!(error.to_string(), text);
    let text = "no room to insert 9 page(s): the length is 3 of u64::MAX";
    assert_eq!(ExtentError::Overflow { count: 9, len }.to_string(), text);
}

#[test]
fn an_empty_map_and_an_empty_device_are_different() {
    let map = ExtentMap::new(0);
    assert!(map.is_empty() && map.allocate(0..1).is_err() && map.is_empty());
    let map = ExtentMap::new(9);
    assert!(map.is_empty() && map.extents().is_empty() && map.free_blocks() == 9);
    map.allocate(0..1).unwrap();
    assert!(!map.is_empty());
}

#[test]
fn threads_share_it_without_losing_a_block() {
    let guard = ten_pages();
    std::thread::scope(|scope| {
        for thread in 1..=3 {
            let guard = &guard;
            scope.spawn(move || {
                let at = thread * 100;
                for round in 0..200 {
                    let end = at + 1 + round % 20;
                    guard.map().allocate(at..end).unwrap();
                    assert_eq!(guard.punch_hole(at..at + 100).wait(), Ok(end - at));
                }
            });
        }
    });
    assert_eq!(list(guard.map().extents()), [(0..10, 0)]);
    guard.map().state.lock().check(100);
}
