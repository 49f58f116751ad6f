//! `maps::FileBlocks` on real files: the five operations against a naive twin, what file systems lack,
//! and what is refused before the file is touched.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[expect(dead_code, reason = "made for the tests of the promises")]
mod support;

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use layout_lease::maps::{FileBlocks, FileError, FileOp};
use layout_lease::{LayoutGuard, OpError, PageRange, RangeError};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::support::{Ask, Dice, assert_clean, pages};

const PAGE: u64 = 4096;

/// A file on tmpfs, wherever this runs.
fn memory() -> File {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    memfd_create("file_blocks", flags).unwrap().into()
}

/// A file on a file system that has all five operations; `None`, with a word, if there is none here.
fn disk() -> Option<File> {
    let folders = [
        std::env::temp_dir(),
        env!("CARGO_TARGET_TMPDIR").into(),
        "/var/tmp".into(),
    ];
    for folder in folders {
        let Ok(file) = tempfile::tempfile_in(folder) else {
            continue;
        };
        let Ok(map) = FileBlocks::new(file.try_clone().unwrap(), PAGE) else {
            continue;
        };
        file.set_len(4 * PAGE).unwrap();
        let guard = LayoutGuard::new(map);
        if guard.collapse_range(0..1).wait().is_ok() && guard.zero_range(0..1).wait().is_ok() {
            file.set_len(0).unwrap();
            return Some(file);
        }
    }
    println!("SKIPPED: no folder for temporary files has collapse_range and zero_range");
    None
}

fn guard(file: &File) -> LayoutGuard<FileBlocks> {
    LayoutGuard::new(FileBlocks::new(file.try_clone().unwrap(), PAGE).unwrap())
}

/// `len` bytes that are nowhere 0 and tell the pages apart.
fn fill(file: &File, len: u64) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len).map(|at| 1 + (at / PAGE % 251) as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    bytes
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The inside of `OpError::Map`.
#[track_caller]
fn map_error(answer: Result<u64, OpError<FileError>>) -> FileError {
    match answer {
        Err(OpError::Map(e)) => e,
        other => panic!("expected an error of the map: {other:?}"),
    }
}

// ---- the five operations --------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq)]
enum Page {
    Hole,
    /// It has a block, which has not been written since it was zeroed.
    Zeroed,
    Data,
}

/// What the file should be.
#[derive(Default)]
struct Twin {
    bytes: Vec<u8>,
    pages: Vec<Page>,
}

impl Twin {
    fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    fn resize(&mut self, len: u64) {
        self.pages.resize(len as usize, Page::Hole);
        self.bytes.resize((len * PAGE) as usize, 0);
    }

    /// How many pages of `at` are freed with it: at least, and at most.
    fn count(&self, at: PageRange) -> (u64, u64) {
        let inside = at.intersection(&pages(0, self.len().max(1)));
        let Some(at) = inside.filter(|_| self.len() > 0) else {
            return (0, 0);
        };
        let of = &self.pages[at.start() as usize..at.end() as usize];
        let count = |kind| of.iter().filter(|&&page| page == kind).count() as u64;
        let data = count(Page::Data);
        (data, data + count(Page::Zeroed))
    }

    fn clear(&mut self, at: PageRange, to: Page) -> (u64, u64) {
        let count = self.count(at);
        for page in at.start()..at.end().min(self.len()) {
            self.pages[page as usize] = to;
            self.bytes[(page * PAGE) as usize..][..PAGE as usize].fill(0);
        }
        count
    }

    fn zero(&mut self, at: PageRange) -> (u64, u64) {
        self.resize(self.len().max(at.end()));
        self.clear(at, Page::Zeroed);
        (0, 0)
    }

    fn truncate(&mut self, len: u64) -> (u64, u64) {
        let count = self.count(pages(len, u64::MAX));
        self.resize(len);
        count
    }

    fn collapse(&mut self, at: PageRange) -> (u64, u64) {
        let count = self.count(at);
        self.pages.drain(at.start() as usize..at.end() as usize);
        let (start, end) = (at.start() * PAGE, at.end() * PAGE);
        self.bytes.drain(start as usize..end as usize);
        count
    }

    fn insert(&mut self, at: PageRange) -> (u64, u64) {
        let (start, len) = (at.start() as usize, at.len() as usize);
        self.pages.splice(start..start, vec![Page::Hole; len]);
        let (start, len) = (start * PAGE as usize, len * PAGE as usize);
        self.bytes.splice(start..start, vec![0; len]);
        (0, 0)
    }

    fn write(&mut self, file: &File, page: u64, byte: u8) {
        if page >= self.len() {
            self.resize(page + 1);
        }
        let bytes = &mut self.bytes[(page * PAGE) as usize..][..PAGE as usize];
        bytes.fill(byte);
        file.write_all_at(bytes, page * PAGE).unwrap();
        self.pages[page as usize] = Page::Data;
    }
}

/// Random operations: contents, length and the number of pages freed are what the naive twin says.
#[test]
fn all_five_against_a_naive_twin() {
    let Some(file) = disk() else { return };
    let (guard, dice) = (guard(&file), &mut Dice::new(503));
    let mut twin = Twin::default();
    let (mut done, mut freed) = ([0; 5], [0; 5]);
    for step in 0..1_500 {
        let at = dice.range(24, 6);
        let (start, end) = (at.start(), at.end());
        let (kind, answer, (least, most)) = match dice.roll(12) {
            0 => (0, guard.punch_hole(at), twin.clear(at, Page::Hole)),
            1 => {
                let open = pages(start, u64::MAX);
                (0, guard.punch_hole(open), twin.clear(open, Page::Hole))
            }
            2 => (1, guard.zero_range(at), twin.zero(at)),
            3 => (2, guard.truncate(start), twin.truncate(start)),
            4 if end < twin.len() => (3, guard.collapse_range(at), twin.collapse(at)),
            5 if start < twin.len() && twin.len() < 40 => {
                (4, guard.insert_range(at), twin.insert(at))
            }
            _ => {
                let page = dice.roll(24);
                twin.write(&file, page, 1 + (step % 255) as u8);
                continue;
            }
        };
        let answer = answer.wait().unwrap();
        assert!(
            (least..=most).contains(&answer),
            "step {step}, {at}: {answer} is not in {least}..={most}"
        );
        done[kind] += 1;
        freed[kind] += answer;
        assert_eq!(guard.map().pages().unwrap(), twin.len(), "step {step}");
        assert!(read(&file) == twin.bytes, "step {step}: {at}");
    }
    assert!(done.iter().all(|&n| n > 50), "{done:?}");
    assert!([0, 2, 3].iter().all(|&n| freed[n] > 50), "{freed:?}");
    assert_clean(&guard);
}

/// The last page may be partial: it is a page, it is freed, and it moves.
#[test]
fn a_partial_last_page_is_a_page() {
    let Some(file) = disk() else { return };
    let guard = guard(&file);
    let bytes = fill(&file, 5 * PAGE + 10);
    assert_eq!(guard.map().pages().unwrap(), 6);
    // It is behind the collapse, so it moves; the end of the file is not within a collapse.
    let error = map_error(guard.collapse_range(4..6).wait());
    assert!(
        matches!(error, FileError::OutOfRange { op: FileOp::CollapseRange, len, .. }
        if len == 5 * PAGE + 10)
    );
    assert_eq!(read(&file), bytes, "it was refused");
    assert_eq!(guard.collapse_range(0..2).wait().unwrap(), 2);
    assert_eq!(read(&file), bytes[2 * PAGE as usize..]);
    guard.insert_range(3..4).wait().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 * PAGE + 10);
    let tail = read(&file).split_off(4 * PAGE as usize);
    assert_eq!(tail, bytes[5 * PAGE as usize..]);
    // Its block goes, its length stays.
    let before = allocated(&file);
    assert_eq!(guard.punch_hole(4..5).wait().unwrap(), 1);
    assert_eq!(before - allocated(&file), PAGE);
    assert_eq!(file.metadata().unwrap().len(), 4 * PAGE + 10);
    // Rounded up: truncating makes whole pages.
    fill(&file, 2 * PAGE + 1);
    guard.truncate(3).wait().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3 * PAGE);
    // To the end, not up to the next page.
    file.set_len(2 * PAGE + 1).unwrap();
    assert_eq!(guard.zero_range(1..).wait().unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), 2 * PAGE + 1);
    assert!(read(&file)[PAGE as usize..].iter().all(|&byte| byte == 0));
}

fn allocated(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks() * 512
}

/// What the operation answers is what comes back to the file system.
#[test]
fn freed_pages_are_those_that_du_gets_back() {
    let Some(file) = disk() else { return };
    let guard = guard(&file);
    fill(&file, 8 * PAGE);
    let mut before = allocated(&file);
    let mut freed = |answer: Result<u64, OpError<FileError>>| {
        let now = allocated(&file);
        let bytes = before - now;
        before = now;
        (answer.unwrap(), bytes)
    };
    assert_eq!(freed(guard.punch_hole(1..3).wait()), (2, 2 * PAGE));
    assert_eq!(freed(guard.punch_hole(0..3).wait()), (1, PAGE));
    assert_eq!(freed(guard.punch_hole(0..3).wait()), (0, 0));
    assert_eq!(freed(guard.zero_range(3..4).wait()), (0, 0));
    assert_eq!(freed(guard.collapse_range(0..5).wait()).0, 1);
    assert_eq!(freed(guard.truncate(1).wait()), (2, 2 * PAGE));
    assert_eq!(freed(guard.truncate(100).wait()), (0, 0));
    assert_eq!(freed(guard.punch_hole(..).wait()), (1, PAGE));
}

/// A page counts once, however many runs of data are in it, and so does a block that the end is in.
#[test]
fn freed_pages_are_counted_once_and_to_the_end() {
    let file = memory();
    let map = FileBlocks::new(file.try_clone().unwrap(), 4 * PAGE).unwrap();
    let guard = LayoutGuard::new(map);
    let write = |block: u64, len: usize| file.write_all_at(&vec![7; len], block * PAGE).unwrap();
    for block in [0, 2, 4, 7, 8] {
        write(block, PAGE as usize); // page 0 has two runs, page 1 one and shares one with page 2
    }
    assert_eq!(guard.punch_hole(0..1).wait().unwrap(), 1);
    write(0, PAGE as usize);
    write(2, PAGE as usize);
    write(12, 10);
    assert_eq!(guard.truncate(0).wait().unwrap(), 4);

    let map = FileBlocks::in_place(file.try_clone().unwrap(), 512).unwrap();
    let guard = LayoutGuard::new(map);
    write(0, PAGE as usize + 600);
    assert_eq!(guard.punch_hole(8..).wait().unwrap(), 2);
    assert_eq!(file.metadata().unwrap().len(), PAGE + 600);
}

/// An operation waits for a pin, and the file is untouched until then.
#[test]
fn nothing_happens_to_the_file_while_it_is_pinned() {
    let Some(file) = disk() else { return };
    let guard = guard(&file);
    let bytes = fill(&file, 8 * PAGE);
    let pin = guard.try_pin(6..7).unwrap();
    let mut ops = [
        guard.punch_hole(6..7),
        guard.zero_range(5..8),
        guard.truncate(5),
        guard.collapse_range(1..2),
        guard.insert_range(1..2),
    ];
    for op in &mut ops {
        op.assert_waits();
    }
    assert_eq!(read(&file), bytes);
    drop(pin);
    for op in ops {
        op.wait().unwrap();
    }
    assert_eq!(guard.map().pages().unwrap(), 5);
    assert_clean(&guard);
}

// ---- what a file system lacks ---------------------------------------------------------------------

/// tmpfs has two of the five. The others are unsupported, by name, and change nothing.
#[test]
fn what_the_file_system_lacks_is_unsupported_and_has_a_name() {
    let file = memory();
    let bytes = fill(&file, 8 * PAGE);
    let guard = guard(&file);
    assert_eq!(guard.map().file_system().to_string(), "tmpfs");
    assert_eq!(guard.map().lacking(), []);
    let refused = |answer| assert!(matches!(answer, Err(OpError::Unsupported)), "{answer:?}");
    refused(guard.collapse_range(1..2).wait());
    assert_eq!(guard.map().lacking(), [FileOp::CollapseRange]);
    refused(guard.insert_range(1..2).wait());
    refused(guard.zero_range(1..2).wait());
    assert_eq!(read(&file), bytes);
    let lacking = guard.map().lacking();
    let names: Vec<_> = lacking.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["zero_range", "collapse_range", "insert_range"]);
    let debug = format!("{:?}", guard.map());
    assert!(
        debug.contains("tmpfs") && debug.contains("CollapseRange"),
        "{debug}"
    );
    // The other two work there.
    assert_eq!(guard.punch_hole(1..3).wait().unwrap(), 2);
    assert_eq!(guard.truncate(5).wait().unwrap(), 3);
    assert_eq!(guard.map().pages().unwrap(), 5);
    assert_clean(&guard);
}

#[test]
fn a_map_says_what_it_is_over() {
    let map = FileBlocks::new(memory(), PAGE).unwrap();
    assert_eq!(map.file_system().name(), Some("tmpfs"));
    assert_eq!(map.file_system().magic(), 0x0102_1994);
    assert_eq!((map.page_size(), map.block_size()), (PAGE, PAGE));
}

/// Any other error is the map's, and says what failed where.
#[test]
fn errors_of_the_system_come_through() {
    let file = memory();
    fill(&file, 8 * PAGE);
    let guard = guard(&file);
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    let error = map_error(guard.truncate(5).wait());
    assert_eq!(error.to_string(), "truncate failed on tmpfs");
    let source = error.source().unwrap().downcast_ref::<std::io::Error>();
    assert_eq!(
        source.unwrap().kind(),
        std::io::ErrorKind::PermissionDenied,
        "{source:?}"
    );
    assert_eq!(guard.map().lacking(), [], "that is not lacking");
    assert_eq!(guard.map().pages().unwrap(), 8);
    assert_clean(&guard);
}

// ---- what is refused before the file is touched ---------------------------------------------------

#[test]
fn a_page_size_that_does_not_fit_is_refused() {
    let new = |page_size| FileBlocks::new(memory(), page_size);
    for page_size in [0, 3, PAGE - 1, 3 * PAGE, u64::MAX] {
        match new(page_size) {
            Err(FileError::Range(e)) => assert_eq!(e, RangeError::PageSize { page_size }),
            other => panic!("{page_size}: {other:?}"),
        }
        let in_place = FileBlocks::in_place(memory(), page_size);
        assert!(matches!(in_place, Err(FileError::Range(_))));
    }
    for page_size in [1, 512, PAGE / 2] {
        let error = new(page_size).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{page_size} bytes")), "{text}");
        assert!(text.contains("tmpfs has blocks of 4096 bytes"), "{text}");
        assert!(matches!(error, FileError::PageSize { .. }));
    }
    for page_size in [PAGE, 2 * PAGE, 1 << 20, 1 << 63] {
        assert_eq!(new(page_size).unwrap().page_size(), page_size);
    }
}

/// Pages smaller than a block: punched they read as zeroes, but only whole blocks are freed.
#[test]
fn small_pages_stay_in_place() {
    let file = disk().unwrap_or_else(memory);
    let bytes = fill(&file, 3 * PAGE);
    let map = FileBlocks::in_place(file.try_clone().unwrap(), 512).unwrap();
    let guard = LayoutGuard::new(map);
    for op in [guard.collapse_range(0..8), guard.insert_range(0..8)] {
        assert!(matches!(op.wait(), Err(OpError::Unsupported)));
    }
    assert_eq!(guard.map().lacking(), [], "it was not even asked");
    assert_eq!(read(&file), bytes);
    // Pages 8..16 are the second block.
    assert_eq!(guard.punch_hole(1..5).wait().unwrap(), 0);
    let now = read(&file);
    assert!(now[512..5 * 512].iter().all(|&byte| byte == 0));
    assert_eq!((now[511], now[5 * 512]), (1, 1));
    let before = allocated(&file);
    assert_eq!(guard.punch_hole(7..17).wait().unwrap(), 8);
    assert_eq!(before - allocated(&file), PAGE);
    assert_eq!(guard.truncate(19).wait().unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), 19 * 512);
}

#[test]
fn what_is_no_file_to_write_to_is_refused() {
    let folder = File::open(std::env::temp_dir()).unwrap();
    assert!(matches!(
        FileBlocks::new(folder, PAGE),
        Err(FileError::NotAFile)
    ));
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    assert!(matches!(
        FileBlocks::new(null, PAGE),
        Err(FileError::NotAFile)
    ));
    let named = tempfile::NamedTempFile::new().unwrap();
    let read = File::open(named.path()).unwrap();
    assert!(matches!(
        FileBlocks::new(read, PAGE),
        Err(FileError::ReadOnly)
    ));
    let write = OpenOptions::new().write(true).open(named.path()).unwrap();
    assert!(FileBlocks::new(write, PAGE).is_ok());
}

/// Offsets beyond 2^63 - 1, and pages at or behind the end.
#[test]
fn ranges_out_of_the_file_are_typed_errors_and_change_nothing() {
    let Some(file) = disk() else { return };
    let guard = guard(&file);
    let bytes = fill(&file, 8 * PAGE);
    let far = 1 << 51; // 2^63 bytes
    let too_large = |answer, expected| match map_error(answer) {
        FileError::TooLarge { op, page_size } => assert_eq!((op, page_size), (expected, PAGE)),
        other => panic!("{other:?}"),
    };
    too_large(guard.truncate(far).wait(), FileOp::Truncate);
    too_large(guard.truncate(u64::MAX - 1).wait(), FileOp::Truncate);
    too_large(guard.zero_range(0..far).wait(), FileOp::ZeroRange);
    too_large(guard.zero_range(far..far + 1).wait(), FileOp::ZeroRange);
    too_large(guard.insert_range(0..far).wait(), FileOp::InsertRange);
    too_large(guard.insert_range(0..far - 8).wait(), FileOp::InsertRange);
    too_large(guard.insert_range(1..).wait(), FileOp::InsertRange);
    let out_of_range = |answer, expected| match map_error(answer) {
        FileError::OutOfRange { op, len, .. } => assert_eq!((op, len), (expected, 8 * PAGE)),
        other => panic!("{other:?}"),
    };
    out_of_range(
        guard.collapse_range(7..8).wait(),
        FileOp::CollapseRange, // to the end is not before it
    );
    out_of_range(guard.collapse_range(0..).wait(), FileOp::CollapseRange);
    out_of_range(
        guard.collapse_range(far..=far).wait(),
        FileOp::CollapseRange,
    );
    out_of_range(guard.insert_range(8..9).wait(), FileOp::InsertRange);
    out_of_range(guard.insert_range(far..=far).wait(), FileOp::InsertRange);
    // Behind the end there is nothing to punch, and nothing to be zeroed down to an end that is before.
    for range in [pages(8, 9), pages(far, far + 1), pages(8, u64::MAX)] {
        assert_eq!(guard.punch_hole(range).wait().unwrap(), 0);
    }
    assert_eq!(guard.punch_hole(7..u64::MAX - 1).wait().unwrap(), 1);
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(guard.zero_range(8..).wait().unwrap(), 0);
    assert_eq!(guard.zero_range(far..).wait().unwrap(), 0);
    assert_eq!(read(&file), bytes);
    // The file system has the last word below that: here it is its own limit, or there is room.
    match guard.truncate(far - 1).wait() {
        Ok(freed) => assert_eq!(freed, 0),
        Err(OpError::Map(FileError::Io { op, .. })) => assert_eq!(op, FileOp::Truncate),
        other => panic!("{other:?}"),
    }
    assert_clean(&guard);
}

/// I2: another map's proof, and one that is too small.
#[test]
fn i02_every_operation_asks_the_proof() {
    use layout_lease::BlockMap;
    let (ours, theirs) = (memory(), memory());
    let bytes = fill(&ours, 8 * PAGE);
    let (guard, other) = (guard(&ours), guard(&theirs));
    let (map, all) = (guard.map(), pages(2, 4));
    let wrong = other.break_layouts(..).wait().unwrap();
    for answer in [
        map.punch_hole(all, &wrong),
        map.zero_range(all, &wrong),
        map.truncate(2, &wrong),
        map.truncate(u64::MAX, &wrong),
        map.collapse_range(all, &wrong),
        map.insert_range(all, &wrong),
    ] {
        assert!(matches!(answer, Err(OpError::WrongMapping)), "{answer:?}");
    }
    drop(wrong);
    let small = guard.break_layouts(2..5).wait().unwrap();
    for answer in [
        map.punch_hole(pages(1, 5), &small),
        map.zero_range(pages(2, 6), &small),
        map.truncate(2, &small),
        map.collapse_range(all, &small),
        map.insert_range(all, &small),
    ] {
        assert!(matches!(answer, Err(OpError::NotCovered)), "{answer:?}");
    }
    assert_eq!(read(&ours), bytes);
    assert_eq!(map.punch_hole(all, &small).unwrap(), 2);
}
