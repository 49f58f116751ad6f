//! Scenes by hand, then random sequences against a naive twin (one entry per page, one per free
//! block). They run on [`State`], which needs no proof; those of
//! the map and its proofs are in [`proofs`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;

use super::state::Run;
use super::*;

mod proofs;

fn pages(range: Range<u64>) -> PageRange {
    PageRange::new(range.start, range.end).unwrap()
}

/// `blocks` blocks, of which exactly these are mapped: (pages, first block).
fn state(blocks: u64, len: u64, mapped: &[(Range<u64>, u64)]) -> State {
    let mut state = State::new(blocks);
    state.space.take(blocks, None);
    for (pages, block) in mapped {
        let len = pages.end - pages.start;
        state.link(pages.start, Run { len, block: *block });
    }
    let used: BTreeSet<_> = flat(&state).into_values().collect();
    for block in (0..blocks).filter(|block| !used.contains(block)) {
        state.space.give(block..block + 1);
    }
    state.len = len;
    state.check(blocks);
    state
}

fn list(extents: impl IntoIterator<Item = Extent>) -> Vec<(Range<u64>, u64)> {
    let one = |e: Extent| (e.pages.start()..e.pages.end(), e.block);
    extents.into_iter().map(one).collect()
}

fn layout(state: &State) -> Vec<(Range<u64>, u64)> {
    list(state.extents_in(PageRange::ALL))
}

/// Page -> block, one by one.
fn flat(state: &State) -> BTreeMap<u64, u64> {
    let extents = state.extents_in(PageRange::ALL);
    extents
        .flat_map(|e| (e.pages.start()..e.pages.end()).zip(e.blocks()))
        .collect()
}

/// What `op` answers; it must have changed nothing.
fn refused<T: fmt::Debug>(
    state: &State,
    op: impl FnOnce(&mut State) -> Result<T, ExtentError>,
) -> ExtentError {
    let mut after = state.clone();
    let error = op(&mut after).expect_err("this must be refused");
    assert_eq!(&after, state, "refused with {error:?}, but changed");
    error
}

// --- allocate, look up ---------------------------------------------------------------------------

#[test]
fn allocation_is_contiguous_and_grows_the_length() {
    let mut s = State::new(100);
    let made = s.allocate(pages(5..15)).unwrap();
    assert_eq!(list(made), [(5..15, 0)]);
    assert_eq!(s.len, 15);
    s.allocate(pages(0..3)).unwrap();
    assert_eq!(s.len, 15, "allocating before the end must not shrink");
    s.check(100);
}

#[test]
fn only_holes_are_filled_and_every_neighbour_merges() {
    let mut s = state(100, 12, &[(2..4, 2), (6..8, 6), (10..12, 40)]);
    let made = s.allocate(pages(3..12)).unwrap();
    // 4..6 continues the first extent and meets the second; 8..10 continues the second, but does
    // not meet the third.
    assert_eq!(list(made), [(4..6, 4), (8..10, 8)]);
    assert_eq!(layout(&s), [(2..10, 2), (10..12, 40)]);
    s.check(100);
    assert_eq!(s.allocate(pages(2..12)).unwrap(), [], "no holes left");
}

#[test]
fn neighbours_in_pages_only_or_blocks_only_stay_apart() {
    let s = state(100, 12, &[(2..4, 2), (4..6, 10), (7..9, 12), (9..11, 0)]);
    assert_eq!(
        layout(&s),
        [(2..4, 2), (4..6, 10), (7..9, 12), (9..11, 0)],
        "4..6 and 7..9 have a hole between; 9..11 has the blocks of before, not of behind"
    );
}

#[test]
fn a_fragmented_space_is_used_in_few_pieces() {
    // Free: 0..2, 3..8, 9..12.
    let mut s = state(12, 22, &[(20..21, 2), (21..22, 8)]);
    let made = s.allocate(pages(0..9)).unwrap();
    assert_eq!(list(made), [(0..5, 3), (5..8, 9), (8..9, 0)]);
    s.check(12);
}

#[test]
fn out_of_space_is_all_or_nothing() {
    // Three holes of 2 and 5 free blocks: the first two could be filled.
    let s = state(9, 8, &[(2..4, 0), (6..8, 2)]);
    assert_eq!(
        refused(&s, |s| s.allocate(pages(0..10))),
        ExtentError::OutOfSpace { needed: 6, free: 5 }
    );
    let none = State::new(0);
    assert_eq!(
        refused(&none, |s| s.allocate(PageRange::ALL)),
        ExtentError::OutOfSpace {
            needed: u64::MAX,
            free: 0
        }
    );
    let mut exact = s.clone();
    exact.allocate(pages(1..10)).unwrap();
    assert_eq!(exact.space.free(), 0);
    exact.check(9);
}

#[test]
fn lookup_sees_both_edges() {
    let s = state(100, 20, &[(4..6, 9), (6..7, 3)]);
    let block = |page| s.extent_of(page).and_then(|e| e.block_of(page));
    let found: Vec<_> = (3..8).map(block).collect();
    assert_eq!(found, [None, Some(9), Some(10), Some(3), None]);
    assert_eq!(block(u64::MAX), None);
    assert_eq!(s.extent_of(7), None, "not the extent before the hole");
    let extent = s.extent_of(5).unwrap();
    assert_eq!((extent.block_of(3), extent.block_of(6)), (None, None));
    assert_eq!(extent.blocks(), 9..11);
}

#[test]
fn extents_in_a_range_are_cut_to_it() {
    let s = state(100, 20, &[(0..4, 0), (6..10, 20), (12..20, 40)]);
    let within = |range| list(s.extents_in(pages(range)));
    assert_eq!(within(2..14), [(2..4, 2), (6..10, 20), (12..14, 40)]);
    assert_eq!(within(7..9), [(7..9, 21)]);
    assert_eq!(within(4..6), []);
    assert_eq!(within(6..10), [(6..10, 20)]);
}

// --- the five operations -------------------------------------------------------------------------

#[test]
fn punch_splits_frees_and_keeps_the_length() {
    let mut s = state(100, 20, &[(0..10, 30), (12..14, 60), (16..20, 70)]);
    assert_eq!(s.punch_hole(pages(4..6)), 2, "a hole in the middle");
    s.check(100);
    assert_eq!(s.punch_hole(pages(4..6)), 0, "and again: nothing there");
    assert_eq!(s.punch_hole(pages(8..17)), 5, "tail, whole, head");
    assert_eq!(
        layout(&s),
        [(0..4, 30), (6..8, 36), (17..20, 71)],
        "the rest keeps its blocks"
    );
    s.check(100);
    assert_eq!(s.punch_hole(PageRange::ALL), 9, "past the end is fine");
    assert_eq!((s.len, s.space.free()), (20, 100));
    s.check(100);
}

#[test]
fn a_punched_hole_is_filled_where_it_was() {
    let mut s = State::new(100);
    s.allocate(pages(0..10)).unwrap();
    let before = s.clone();
    s.punch_hole(pages(4..6));
    s.allocate(pages(4..6)).unwrap();
    assert_eq!(s, before);
}

#[test]
fn zero_makes_a_hole_and_grows_the_length() {
    let mut s = state(100, 10, &[(0..10, 0)]);
    assert_eq!(s.zero_range(pages(2..4)), 2);
    assert_eq!(s.len, 10, "inside: the length stays");
    assert_eq!(s.zero_range(pages(8..12)), 2);
    assert_eq!((s.len, s.space.free()), (12, 94));
    assert_eq!(layout(&s), [(0..2, 0), (4..8, 4)]);
    s.check(100);
}

#[test]
fn truncate_frees_behind_and_grows_as_a_hole() {
    let mut s = state(100, 10, &[(0..4, 0), (6..10, 6)]);
    assert_eq!(s.truncate(7), 3);
    assert_eq!((layout(&s), s.len), (vec![(0..4, 0), (6..7, 6)], 7));
    s.check(100);
    assert_eq!((s.truncate(u64::MAX), s.len), (0, u64::MAX));
    s.check(100);
    assert_eq!((s.truncate(0), s.len), (5, 0));
    assert_eq!(s, State::new(100));
}

#[test]
fn collapse_moves_down_and_merges_at_the_seam() {
    let mut s = state(100, 12, &[(0..4, 0), (4..6, 50), (6..8, 4), (8..10, 90)]);
    assert_eq!(s.collapse_range(pages(4..6)), Ok(2));
    assert_eq!(layout(&s), [(0..6, 0), (6..8, 90)]);
    assert_eq!((s.len, s.space.free()), (10, 92));
    s.check(100);
    assert_eq!(s.collapse_range(pages(1..3)), Ok(2), "inside one extent");
    assert_eq!(layout(&s), [(0..1, 0), (1..4, 3), (4..6, 90)]);
    s.check(100);
}

#[test]
fn collapse_must_end_before_the_length() {
    let mut s = state(100, 10, &[(0..10, 0)]);
    for range in [4..10, 4..11, 10..12, 50..u64::MAX] {
        let pages = pages(range);
        assert_eq!(
            refused(&s, |s| s.collapse_range(pages)),
            ExtentError::OutOfRange { pages, len: 10 }
        );
    }
    assert_eq!(s.collapse_range(pages(4..9)), Ok(5));
    assert_eq!((layout(&s), s.len), (vec![(0..4, 0), (4..5, 9)], 5));
}

#[test]
fn insert_splits_and_moves_up() {
    let mut s = state(100, 12, &[(0..4, 0), (6..10, 20)]);
    assert_eq!(s.insert_range(pages(7..9)), Ok(0));
    assert_eq!(layout(&s), [(0..4, 0), (6..7, 20), (9..12, 21)]);
    assert_eq!((s.len, s.space.free()), (14, 92));
    s.check(100);
    assert_eq!(s.insert_range(pages(0..1)), Ok(0), "at the very start");
    assert_eq!(layout(&s), [(1..5, 0), (7..8, 20), (10..13, 21)]);
    s.check(100);
}

#[test]
fn insert_then_collapse_is_as_before() {
    let mut s = state(100, 12, &[(0..4, 0), (6..10, 20)]);
    let before = s.clone();
    s.insert_range(pages(2..5)).unwrap();
    s.collapse_range(pages(2..5)).unwrap();
    assert_eq!(s, before, "the halves must merge again");
}

#[test]
fn insert_must_start_before_the_length_and_not_overflow() {
    let mut s = state(100, 10, &[(0..10, 0)]);
    for range in [10..12, 50..u64::MAX] {
        let pages = pages(range);
        assert_eq!(
            refused(&s, |s| s.insert_range(pages)),
            ExtentError::OutOfRange { pages, len: 10 }
        );
    }
    let overflow = |count| ExtentError::Overflow { count, len: 10 };
    let error = refused(&s, |s| s.insert_range(pages(9..u64::MAX)));
    assert_eq!(error, overflow(u64::MAX - 9));
    // The last one that fits: the length becomes u64::MAX and the last page the last there is.
    let error = refused(&s, |s| s.insert_range(pages(0..u64::MAX - 9)));
    assert_eq!(error, overflow(u64::MAX - 9));
    assert_eq!(s.insert_range(pages(0..u64::MAX - 10)), Ok(0));
    assert_eq!(layout(&s), [(u64::MAX - 10..u64::MAX, 0)]);
    assert_eq!(s.len, u64::MAX);
    s.check(100);
}

// --- the twin ------------------------------------------------------------------------------------

/// The same promises in the most naive way.
#[derive(Debug)]
struct Twin {
    pages: BTreeMap<u64, u64>,
    free: BTreeSet<u64>,
    len: u64,
}

impl Twin {
    /// Maximal runs of free blocks as (length, first block).
    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &block in &self.free {
            match runs.last_mut() {
                Some((len, start)) if *start + *len == block => *len += 1,
                _ => runs.push((1, block)),
            }
        }
        runs
    }

    fn take(&mut self, want: u64, page: u64) -> (u64, u64) {
        let before = page.checked_sub(1).and_then(|page| self.pages.get(&page));
        let goal = before.map(|block| block + 1);
        let runs = self.runs();
        let at_goal = runs.iter().find(|run| Some(run.1) == goal);
        let fit = runs.iter().filter(|run| run.0 >= want).min();
        let most = runs.iter().map(|run| run.0).max();
        let largest = runs.iter().find(|run| Some(run.0) == most);
        let &(len, start) = at_goal.or(fit).or(largest).unwrap();
        (len.min(want), start)
    }

    fn allocate(&mut self, pages: PageRange) -> Result<Vec<(Range<u64>, u64)>, ExtentError> {
        let needed = pages.len() - self.pages.range(pages).count() as u64;
        let free = self.free.len() as u64;
        if needed > free {
            return Err(ExtentError::OutOfSpace { needed, free });
        }
        let mut made = Vec::new();
        let mut page = pages.start();
        while page < pages.end() {
            if self.pages.contains_key(&page) {
                page += 1;
                continue;
            }
            let next = self.pages.range(page..).next();
            let end = next.map_or(pages.end(), |(&next, _)| next.min(pages.end()));
            let (len, block) = self.take(end - page, page);
            made.push((page..page + len, block));
            for i in 0..len {
                assert!(self.free.remove(&(block + i)));
                self.pages.insert(page + i, block + i);
            }
            page += len;
        }
        self.len = self.len.max(pages.end());
        Ok(made)
    }

    fn punch(&mut self, pages: impl Fn(u64) -> bool) -> u64 {
        let before = self.free.len();
        self.pages.retain(|&page, &mut block| {
            let goes = pages(page);
            if goes {
                assert!(self.free.insert(block));
            }
            !goes
        });
        (self.free.len() - before) as u64
    }

    fn zero(&mut self, pages: PageRange) -> u64 {
        self.len = self.len.max(pages.end());
        self.punch(|page| pages.contains(page))
    }

    fn truncate(&mut self, new_len: u64) -> u64 {
        self.len = new_len;
        self.punch(|page| page >= new_len)
    }

    fn collapse(&mut self, pages: PageRange) -> Result<u64, ExtentError> {
        let len = self.len;
        if pages.end() >= len {
            return Err(ExtentError::OutOfRange { pages, len });
        }
        let freed = self.punch(|page| pages.contains(page));
        let down = |(page, block)| {
            let behind = page >= pages.end();
            (if behind { page - pages.len() } else { page }, block)
        };
        self.pages = core::mem::take(&mut self.pages)
            .into_iter()
            .map(down)
            .collect();
        self.len -= pages.len();
        Ok(freed)
    }

    fn insert(&mut self, pages: PageRange) -> Result<u64, ExtentError> {
        let (len, count) = (self.len, pages.len());
        if pages.start() >= len {
            return Err(ExtentError::OutOfRange { pages, len });
        }
        if u128::from(len) + u128::from(count) > u128::from(u64::MAX) {
            return Err(ExtentError::Overflow { count, len });
        }
        let up = |(page, block)| {
            let behind = page >= pages.start();
            (if behind { page + count } else { page }, block)
        };
        self.pages = core::mem::take(&mut self.pages)
            .into_iter()
            .map(up)
            .collect();
        self.len += count;
        Ok(0)
    }
}

/// A page that matters: close to where something begins or ends.
#[derive(Clone, Debug)]
enum Near {
    Start(u64),
    Edge(usize, i64),
    Len(i64),
    Max(u64),
}

impl Near {
    fn page(&self, state: &State) -> u64 {
        let edges = layout(state);
        match *self {
            Near::Start(page) => page,
            Near::Edge(_, by) if edges.is_empty() => 0u64.saturating_add_signed(by),
            Near::Edge(which, by) => {
                let range = &edges[which / 2 % edges.len()].0;
                let edge = [range.start, range.end][which % 2];
                edge.saturating_add_signed(by)
            }
            Near::Len(by) => state.len.saturating_add_signed(by),
            Near::Max(by) => u64::MAX - by,
        }
    }
}

#[derive(Clone, Debug)]
enum Until {
    Count(u64),
    Page(Near),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Allocate,
    Punch,
    Zero,
    Truncate,
    Collapse,
    Insert,
}

#[derive(Clone, Debug)]
struct Step {
    kind: Kind,
    from: Near,
    until: Until,
}

fn near() -> impl Strategy<Value = Near> {
    prop_oneof![
        4 => (0u64..24).prop_map(Near::Start),
        6 => (any::<usize>(), -1i64..=1).prop_map(|(which, by)| Near::Edge(which, by)),
        2 => (-3i64..=2).prop_map(Near::Len),
        1 => (0u64..12).prop_map(Near::Max),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        6 => Just(Kind::Allocate),
        3 => Just(Kind::Punch),
        1 => Just(Kind::Zero),
        1 => Just(Kind::Truncate),
        2 => Just(Kind::Collapse),
        3 => Just(Kind::Insert),
    ];
    let until = prop_oneof![
        3 => (1u64..9).prop_map(Until::Count),
        1 => near().prop_map(Until::Page),
    ];
    (kind, near(), until).prop_map(|(kind, from, until)| Step { kind, from, until })
}

fn same(state: &State, twin: &Twin, blocks: u64) {
    state.check(blocks);
    assert_eq!(flat(state), twin.pages);
    assert_eq!(state.len, twin.len);
    assert_eq!(state.space.free(), twin.free.len() as u64);
    let edges = layout(state)
        .into_iter()
        .flat_map(|(p, _)| [p.start, p.end]);
    for page in edges.flat_map(|page| [page.saturating_sub(1), page]) {
        let found = state.extent_of(page).and_then(|e| e.block_of(page));
        assert_eq!(found, twin.pages.get(&page).copied(), "page {page}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn behaves_as_the_naive_twin(
        blocks in prop_oneof![1 => 0u64..4, 4 => 8u64..64],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut state = State::new(blocks);
        let mut twin = Twin { pages: BTreeMap::new(), free: (0..blocks).collect(), len: 0 };
        for Step { kind, from, until } in steps {
            let from = from.page(&state);
            let until = match until {
                Until::Count(count) => from.saturating_add(count),
                Until::Page(near) => near.page(&state),
            };
            let before = state.clone();
            let failed = if let Kind::Truncate = kind {
                prop_assert_eq!(state.truncate(from), twin.truncate(from));
                false
            } else {
                let Ok(range) = PageRange::new(from, until) else { continue };
                match kind {
                    Kind::Allocate => {
                        let made = state.allocate(range).map(list);
                        prop_assert_eq!(&made, &twin.allocate(range));
                        made.is_err()
                    }
                    Kind::Punch => {
                        let freed = twin.punch(|page| range.contains(page));
                        prop_assert_eq!(state.punch_hole(range), freed);
                        false
                    }
                    Kind::Zero => {
                        prop_assert_eq!(state.zero_range(range), twin.zero(range));
                        false
                    }
                    Kind::Collapse => {
                        let freed = state.collapse_range(range);
                        prop_assert_eq!(freed, twin.collapse(range));
                        freed.is_err()
                    }
                    Kind::Insert => {
                        let freed = state.insert_range(range);
                        prop_assert_eq!(freed, twin.insert(range));
                        freed.is_err()
                    }
                    Kind::Truncate => unreachable!("see above"),
                }
            };
            if failed {
                prop_assert_eq!(&state, &before, "an error changed something");
            }
            same(&state, &twin, blocks);
        }
    }
}
