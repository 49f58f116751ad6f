//! The store of `examples/pmem_kv` on pools that are truncated, foreign, of another version, or
//! damaged: each gets a typed error or a finding that says what was expected and what was found;
//! nothing else is lost; nothing panics.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use layout_lease::PageRange;
use tempfile::TempDir;

use crate::store::compact::Effort;
use crate::store::error::{Problem, StoreError};
use crate::store::format::{
    DIRECTORY, FOOTER, Fault, Geometry, MAX_KEY, PAGE, SUPERBLOCK, Superblock, SuperblockFault,
    entry_bytes, pack, tail_of, unpack,
};
use crate::store::media::VolatileMedia;
use crate::store::{Access, Store};

const CAPACITY: u64 = 32;

/// A pool with two records, `good` in slot 0 and `bad` in slot 1, and its bytes.
fn pool() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.pool");
    let store = Store::create(&path, CAPACITY * PAGE, Some(Box::new(VolatileMedia))).unwrap();
    store.put(b"good", b"the value of good").unwrap();
    store.put(b"bad", b"the value of bad").unwrap();
    store.close();
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

fn open(path: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(path, access, Some(Box::new(VolatileMedia)))
}

/// Opens the bytes as a pool, for reading.
fn read(path: &Path, bytes: &[u8]) -> Result<Store, StoreError> {
    // Anew, since writing over a file's old bytes makes some file systems flush.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    let store = open(path, Access::Read);
    assert!(
        fs::read(path).unwrap() == bytes,
        "reading has changed the file"
    );
    store
}

/// The one problem of a pool in which only `bad` may be damaged.
fn the_problem(store: &Store) -> Problem {
    assert_eq!(&*store.get(b"good").unwrap().unwrap(), b"the value of good");
    let [problem] = store.problems() else {
        panic!("expected one problem, found {:?}", store.problems());
    };
    // What is wrong is never served.
    match store.get(b"bad") {
        Err(StoreError::Damaged(told)) => assert_eq!(told, *problem),
        other => assert!(other.unwrap().is_none()),
    }
    assert!(
        problem
            .to_string()
            .contains(&format!("slot {}", problem.slot))
    );
    problem.clone()
}

fn extent_of(bytes: &[u8], slot: u64) -> PageRange {
    let at = entry_bytes(slot);
    let word = u64::from_le_bytes(
        bytes[at.start as usize..at.end as usize]
            .try_into()
            .unwrap(),
    );
    let geometry = Geometry { capacity: CAPACITY };
    unpack(word).unwrap().extent(geometry).unwrap()
}

fn bytes_of(extent: PageRange) -> Range<usize> {
    (extent.start() * PAGE) as usize..(extent.end() * PAGE) as usize
}

// ------------------------------------------------------------------------------------ superblocks

#[test]
fn a_file_that_is_too_short_is_a_truncated_pool() {
    let (_folder, path, bytes) = pool();
    let least = Geometry { capacity: CAPACITY }.first() * PAGE;
    for len in [
        0,
        1,
        SUPERBLOCK as u64 - 1,
        SUPERBLOCK as u64,
        PAGE,
        2 * PAGE,
        least - 1,
    ] {
        match read(&path, &bytes[..len as usize]) {
            Err(StoreError::Truncated { expected, found }) => {
                assert_eq!((expected, found), (least, len));
            }
            other => panic!("{len} bytes: {other:?}"),
        }
        // Nor does a writer make it longer, or a pool of it.
        let written = open(&path, Access::Write);
        assert!(
            matches!(written, Err(StoreError::Truncated { .. })),
            "{written:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes[..len as usize]);
    }
}

#[test]
fn a_file_that_is_no_pool_is_left_alone() {
    let (_folder, path, _) = pool();
    let mut text = b"#!/bin/sh\necho this is a script\n".repeat(3);
    for _ in 0..2 {
        match read(&path, &text) {
            Err(StoreError::NoPoolFile(SuperblockFault::Magic { found })) => {
                assert_eq!(&found, b"#!/bin/s");
            }
            other => panic!("{other:?}"),
        }
        assert!(open(&path, Access::Write).is_err());
        assert_eq!(fs::read(&path).unwrap(), text);
        let message = read(&path, &text).unwrap_err().to_string();
        assert!(
            message.contains("PMEMKV") && message.contains("#!/bin/s"),
            "{message}"
        );
        text.resize(100_000, b'x');
    }
}

fn with_version(copy: &[u8], version: u32) -> [u8; SUPERBLOCK] {
    let mut raw: [u8; SUPERBLOCK] = copy[..SUPERBLOCK].try_into().unwrap();
    raw[12..16].copy_from_slice(&version.to_le_bytes());
    raw[8..12].fill(0);
    let crc = crc32c::crc32c(&raw);
    raw[8..12].copy_from_slice(&crc.to_le_bytes());
    raw
}

#[test]
fn another_version_is_refused() {
    let (_folder, path, bytes) = pool();
    // The offsets are right: the same version gives the same bytes.
    assert_eq!(with_version(&bytes, 1), bytes[..SUPERBLOCK]);
    for copies in [&[0, 1][..], &[0], &[1]] {
        let mut bytes = bytes.clone();
        for copy in copies {
            let at = copy * PAGE as usize;
            let raw = with_version(&bytes[at..], 2);
            bytes[at..at + SUPERBLOCK].copy_from_slice(&raw);
        }
        let opened = read(&path, &bytes);
        assert!(
            matches!(opened, Err(StoreError::Version { found: 2 })),
            "{opened:?}"
        );
        assert!(open(&path, Access::Write).is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // Both say so, but neither checksum is ours: another format may well have it elsewhere.
    let mut foreign = bytes;
    foreign[12] = 7;
    foreign[PAGE as usize + 12] = 7;
    let opened = read(&path, &foreign);
    assert!(
        matches!(opened, Err(StoreError::Version { found: 7 })),
        "{opened:?}"
    );
}

#[test]
fn one_bad_superblock_copy_is_told_and_repaired() {
    let (_folder, path, bytes) = pool();
    for copy in [0, 1] {
        for bit in 0..SUPERBLOCK * 8 {
            let mut bytes = bytes.clone();
            bytes[copy * PAGE as usize + bit / 8] ^= 1 << (bit % 8);
            let store = read(&path, &bytes).unwrap();
            let [note] = store.notes() else {
                panic!("copy {copy}, bit {bit}: {:?}", store.notes());
            };
            assert!(
                note.contains(&format!("copy {copy} of the superblock is bad")),
                "{note}"
            );
            assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"the value of bad");
            assert_eq!(store.problems(), []);
        }
        let store = open(&path, Access::Write).unwrap();
        assert!(
            store.notes()[0].contains("written anew"),
            "{:?}",
            store.notes()
        );
        store.close();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert!(open(&path, Access::Read).unwrap().notes().is_empty());
    }
}

#[test]
fn two_bad_superblock_copies_are_an_error_that_names_both() {
    let (_folder, path, bytes) = pool();
    let mut both = bytes.clone();
    both[20] ^= 1;
    both[PAGE as usize] ^= 1;
    match read(&path, &both) {
        Err(StoreError::Superblock {
            first: SuperblockFault::Checksum { stored, computed },
            second: SuperblockFault::Magic { .. },
        }) => assert_ne!(stored, computed),
        other => panic!("{other:?}"),
    }
    // Intact, but not the same: of two pools.
    let mut other = Superblock::decode(&bytes).unwrap();
    other.id ^= 1;
    let mut differ = bytes.clone();
    differ[..SUPERBLOCK].copy_from_slice(&other.encode());
    let opened = read(&path, &differ);
    assert!(
        matches!(opened, Err(StoreError::SuperblocksDiffer)),
        "{opened:?}"
    );
}

#[test]
fn a_sound_superblock_with_senseless_numbers_is_refused() {
    for (at, what) in [
        (16, "page size"),
        (24, "capacity"),
        (32, "directory"),
        (40, "first"),
    ] {
        let geometry = Geometry { capacity: CAPACITY };
        let mut raw = Superblock { geometry, id: 1 }.encode();
        raw[at..at + 8].fill(0xff);
        let raw = with_version(&raw, 1);
        match Superblock::decode(&raw) {
            Err(SuperblockFault::Field {
                what: w,
                found,
                expected,
            }) => {
                assert!(w.contains(what) && found != expected, "{w}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn part_of_a_page_at_the_end_is_told() {
    let (_folder, path, mut bytes) = pool();
    bytes.extend_from_slice(b"part");
    let store = read(&path, &bytes).unwrap();
    assert!(
        store.notes()[0].contains("its last 4 bytes"),
        "{:?}",
        store.notes()
    );
    assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"the value of bad");
}

// ---------------------------------------------------------------------------------------- records

#[test]
fn every_flipped_bit_of_a_record_is_found() {
    let (_folder, path, bytes) = pool();
    let extent = extent_of(&bytes, 1);
    let all = bytes_of(extent);
    let value = all.start..all.start + b"the value of bad".len();
    let tail = all.end - FOOTER - b"bad".len()..all.end;
    let zeroes = (value.end..tail.start).step_by(97);
    let mut checksums = 0;
    for at in value.chain(zeroes).chain(tail) {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let problem = the_problem(&read(&path, &bytes).unwrap());
            assert_eq!((problem.slot, problem.extent), (1, Some(extent)));
            checksums += u32::from(matches!(problem.fault, Fault::Checksum { .. }));
        }
    }
    assert!(checksums > 500, "{checksums}");
}

#[test]
fn every_flipped_bit_of_a_directory_entry_is_found() {
    let (_folder, path, bytes) = pool();
    for (slot, used) in [(1, true), (2, false)] {
        for bit in 0..64 {
            let mut bytes = bytes.clone();
            bytes[entry_bytes(slot).start as usize + bit / 8] ^= 1 << (bit % 8);
            let store = read(&path, &bytes).unwrap();
            if used {
                assert_eq!(the_problem(&store).slot, slot, "bit {bit}");
            } else {
                assert_eq!(store.problems().len(), 1, "bit {bit}");
                assert_eq!(store.problems()[0].slot, slot);
                assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"the value of bad");
            }
        }
    }
}

#[test]
fn a_record_behind_the_end_of_the_file_is_told_and_the_others_are_read() {
    let (_folder, path, bytes) = pool();
    let extent = extent_of(&bytes, 1);
    for len in [extent.start() * PAGE, extent.end() * PAGE - 1] {
        let problem = the_problem(&read(&path, &bytes[..len as usize]).unwrap());
        let (needed, found) = (extent.end(), extent.start());
        assert_eq!(problem.fault, Fault::BeyondEnd { needed, found });
    }
}

#[test]
fn a_record_that_is_not_there_is_told() {
    let (_folder, path, bytes) = pool();
    let mut empty = bytes.clone();
    empty[bytes_of(extent_of(&bytes, 1))].fill(0);
    let problem = the_problem(&read(&path, &empty).unwrap());
    assert_eq!(problem.fault, Fault::Magic { found: [0; 8] });
    assert_eq!(problem.key, None);
}

#[test]
fn entries_and_records_that_do_not_belong_together_are_told() {
    let (_folder, path, bytes) = pool();
    let (zero, one) = (entry_bytes(0).start as usize, entry_bytes(1).start as usize);
    // Both entries name the record of slot 0.
    let mut twice = bytes.clone();
    twice.copy_within(zero..zero + 8, one);
    let problem = the_problem(&read(&path, &twice).unwrap());
    assert_eq!(problem.key.as_deref(), Some(&b"good"[..]));
    let wrong = Fault::Field {
        what: "the slot",
        found: 0,
        expected: 1,
    };
    assert_eq!(problem.fault, wrong);
    // The tag is that of another record.
    let mut tag = bytes.clone();
    tag[one + 7] ^= 0x55;
    let problem = the_problem(&read(&path, &tag).unwrap());
    assert!(
        matches!(
            problem.fault,
            Fault::Field {
                what: "the tag",
                ..
            }
        ),
        "{problem}"
    );
    // The size is that of another extent, and the checksum is right.
    let mut size = bytes.clone();
    let all = bytes_of(extent_of(&bytes, 1));
    let footer = all.end - FOOTER;
    size[footer + 40] = 9;
    size[footer + 8..footer + 12].fill(0);
    let crc = crc32c::crc32c(&size[all]).to_le_bytes();
    size[footer + 8..footer + 12].copy_from_slice(&crc);
    size[one + 7] = crc[0];
    let problem = the_problem(&read(&path, &size).unwrap());
    let what = "the number of pages";
    let wrong = Fault::Field {
        what,
        found: 9,
        expected: 1,
    };
    assert_eq!(problem.fault, wrong);
}

/// Puts a record of `key` into `slot` and the page `page`, as a writer with another idea of what is
/// free would.
fn forge(bytes: &mut Vec<u8>, slot: u64, page: u64, key: &[u8], value: &[u8], seq: u64) {
    let (tail, crc) = tail_of(key, value, seq, slot);
    let record = [value, &tail].concat();
    let at = (page * PAGE) as usize;
    bytes.resize(bytes.len().max(at + record.len()), 0);
    bytes[at..at + record.len()].copy_from_slice(&record);
    let extent = PageRange::new(page, page + record.len() as u64 / PAGE).unwrap();
    let entry = entry_bytes(slot).start as usize;
    bytes[entry..entry + 8].copy_from_slice(&pack(extent, crc).to_le_bytes());
}

#[test]
fn of_two_records_of_one_key_the_newer_one_counts() {
    let (_folder, path, bytes) = pool();
    for (seq, newer) in [(1000, true), (0, false)] {
        let mut bytes = bytes.clone();
        forge(&mut bytes, 5, 20, b"bad", b"another value of bad", seq);
        let store = read(&path, &bytes).unwrap();
        let expected: &[u8] = if newer {
            b"another value of bad"
        } else {
            b"the value of bad"
        };
        assert_eq!(&*store.get(b"bad").unwrap().unwrap(), expected);
        let (slot, by) = if newer { (1, 5) } else { (5, 1) };
        let [problem] = store.problems() else {
            panic!("{:?}", store.problems());
        };
        // The older one is kept, for evidence.
        assert_eq!(store.stat().unwrap().usage.used, 3);
        assert_eq!(
            (problem.slot, problem.fault),
            (slot, Fault::Superseded { by })
        );
    }
}

/// Found by the fuzz target `pools`: the older record was reported and kept, del emptied the newer one's entry
/// alone, and the next who opened the pool served the older one. A key that was durably deleted was back.
#[test]
fn a_deleted_key_stays_deleted_when_there_are_older_records_of_it() {
    let (_folder, path, mut bytes) = pool();
    forge(&mut bytes, 5, 20, b"bad", b"older", 0);
    forge(&mut bytes, 6, 22, b"bad", b"oldest", 0);
    fs::write(&path, &bytes).unwrap();
    let store = open(&path, Access::Write).unwrap();
    assert_eq!(store.problems().len(), 2);
    assert!(store.del(b"bad").unwrap());
    assert!(store.get(b"bad").unwrap().is_none());
    // Their entries can be used again, and not twice.
    let used = store.stat().unwrap().usage.used;
    for key in [b"new1", b"new2", b"new3", b"new4"] {
        store.put(key, b"a value").unwrap();
    }
    assert_eq!(store.stat().unwrap().usage.used, used + 4);
    store.close();
    let store = open(&path, Access::Read).unwrap();
    assert!(store.get(b"bad").unwrap().is_none());
    assert_eq!(store.problems(), []);
    assert_eq!(store.scan(b"new").len(), 4);
    // The pages that nobody names any more are free now.
    assert_eq!(store.stat().unwrap().usage.used, 1 + 4);
}

/// A record with another record in its value, to the byte: both are sound. The outer one was reported, but the
/// rest of its pages was free, and the next put destroyed the evidence.
#[test]
fn a_record_around_another_one_keeps_its_pages() {
    let (_folder, path, mut bytes) = pool();
    forge(&mut bytes, 6, 21, b"inner", b"value", 2000);
    let inner = bytes[21 * PAGE as usize..22 * PAGE as usize].to_vec();
    let outer = [vec![1; PAGE as usize], inner, vec![2; 100]].concat();
    forge(&mut bytes, 5, 20, b"outer", &outer, 1000);
    fs::write(&path, &bytes).unwrap();
    let store = open(&path, Access::Write).unwrap();
    let [problem] = store.problems() else {
        panic!("{:?}", store.problems());
    };
    assert_eq!((problem.slot, &problem.fault), (5, &Fault::Overlap));
    assert_eq!(&*store.get(b"inner").unwrap().unwrap(), b"value");
    assert_eq!(store.stat().unwrap().usage.used, 2 + 3);
    // Nobody gets the pages before and behind the inner record.
    for n in 0.. {
        if store.put(format!("more{n}").as_bytes(), b"v").is_err() {
            break;
        }
    }
    for n in 0..4 {
        store.del(format!("more{n}").as_bytes()).unwrap();
    }
    store.put(b"outer", b"a new value of outer").unwrap();
    store.close();
    assert!(fs::read(&path).unwrap()[20 * PAGE as usize..][..outer.len()] == outer);
    let store = open(&path, Access::Read).unwrap();
    let found = store.get(b"outer").unwrap();
    assert_eq!(found.as_deref(), Some(&b"a new value of outer"[..]));
}

/// Entries that name nothing sound keep their places, so there can be none for a new record while there are pages:
/// the store tried one behind the end of the directory, and told of an I/O error.
#[test]
fn a_directory_full_of_damage_is_told() {
    let (_folder, path, mut bytes) = pool();
    for slot in 2..CAPACITY {
        let at = entry_bytes(slot).start as usize;
        bytes[at..at + 8].fill(0xff);
    }
    fs::write(&path, &bytes).unwrap();
    let store = open(&path, Access::Write).unwrap();
    for _ in 0..2 {
        let put = store.put(b"new", b"value");
        assert!(matches!(put, Err(StoreError::DirectoryFull)), "{put:?}");
        assert_eq!(store.stat().unwrap().usage.used, 2);
    }
    store.put(b"bad", b"better").unwrap();
    store.del(b"good").unwrap();
    store.put(b"new", b"value").unwrap();
    store.close();
    let store = open(&path, Access::Read).unwrap();
    assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"better");
    assert_eq!(&*store.get(b"new").unwrap().unwrap(), b"value");
    assert_eq!(store.scan(b"").len(), 2);
}

/// The same target: the next number after `u64::MAX` was 0 in a release build, older than all that was there, and
/// a panic in a debug build.
#[test]
fn a_pool_without_another_sequence_number_is_told() {
    for (seq, left) in [(u64::MAX - 2, 2), (u64::MAX - 1, 1), (u64::MAX, 0)] {
        let (_folder, path, mut bytes) = pool();
        forge(&mut bytes, 1, 20, b"bad", b"value", seq);
        fs::write(&path, &bytes).unwrap();
        let store = open(&path, Access::Write).unwrap();
        assert_eq!(store.problems(), []);
        for n in 0..4_u8 {
            let put = store.put(b"bad", &[n]);
            assert_eq!(put.is_ok(), n < left, "{put:?}");
            assert!(n < left || matches!(put, Err(StoreError::NoNumberLeft)));
        }
        // Nothing is lost, and what is refused leaves nothing behind.
        let last: &[u8] = if left > 0 { &[left - 1] } else { b"value" };
        assert_eq!(store.get(b"bad").unwrap().as_deref(), Some(last));
        assert_eq!(store.stat().unwrap().usage.used, 2);
        store.close();
        let store = open(&path, Access::Read).unwrap();
        assert_eq!(store.get(b"bad").unwrap().as_deref(), Some(last));
        assert_eq!(store.problems(), []);
    }
}

#[test]
fn records_that_share_pages_are_told() {
    let (_folder, path, mut bytes) = pool();
    // Two sound records cannot share a page, since each page of a record is in its checksum; a sound
    // one and a damaged one can. The damaged one then has no claim to the key's place.
    forge(&mut bytes, 5, 19, b"long", &[7; 6000], 1000);
    forge(&mut bytes, 6, 20, b"inner", b"value", 1001);
    let store = read(&path, &bytes).unwrap();
    assert_eq!(&*store.get(b"inner").unwrap().unwrap(), b"value");
    assert!(store.get(b"long").unwrap().is_none());
    let [problem] = store.problems() else {
        panic!("{:?}", store.problems());
    };
    assert_eq!(
        (problem.slot, problem.extent),
        (5, Some(PageRange::new(19, 21).unwrap()))
    );
    // All four pages count as used: two records, and two of the damaged one.
    assert_eq!(store.stat().unwrap().usage.used, 2 + 2);
}

#[test]
fn a_damaged_record_on_somebody_elses_pages_cannot_take_them_along() {
    let (_folder, path, mut bytes) = pool();
    // Only its checksum is wrong, since its footer is on the page that is its own.
    forge(&mut bytes, 5, 19, b"long", &[7; 6000], 1000);
    forge(&mut bytes, 6, 19, b"inner", b"value", 1001);
    fs::write(&path, &bytes).unwrap();
    let store = open(&path, Access::Write).unwrap();
    let [problem] = store.problems() else {
        panic!("{:?}", store.problems());
    };
    assert_eq!(problem.key.as_deref(), Some(&b"long"[..]));
    assert!(matches!(problem.fault, Fault::Checksum { .. }));
    assert!(!store.del(b"long").unwrap());
    assert_eq!(&*store.get(b"inner").unwrap().unwrap(), b"value");
    assert_eq!(store.stat().unwrap().usage.used, 2 + 2);
}

#[test]
fn a_record_with_a_key_that_cannot_be_is_told() {
    for key in [&b""[..], &[b'k'; MAX_KEY + 1]] {
        let (_folder, path, mut bytes) = pool();
        forge(&mut bytes, 1, 20, key, b"value", 1000);
        let problem = the_problem(&read(&path, &bytes).unwrap());
        let (key, value) = (key.len() as u64, 5);
        let lengths = Fault::Lengths {
            key,
            value,
            extent: PAGE,
        };
        assert_eq!(problem.fault, lengths);
    }
}

// --------------------------------------------------------------------------- living with the damage

fn damage(path: &Path, mut bytes: Vec<u8>) -> PageRange {
    let extent = extent_of(&bytes, 1);
    bytes[bytes_of(extent).start + 3] ^= 0x10;
    fs::write(path, bytes).unwrap();
    extent
}

#[test]
fn damaged_pages_are_kept_as_they_are_and_not_used_again() {
    let (_folder, path, bytes) = pool();
    let extent = damage(&path, bytes);
    let before = fs::read(&path).unwrap();
    let store = open(&path, Access::Write).unwrap();
    the_problem(&store);
    for i in 0.. {
        if store.put(format!("more{i}").as_bytes(), b"v").is_err() {
            break;
        }
    }
    store.compact(Effort::Pack, || true).unwrap();
    the_problem(&store);
    store.close();
    let after = fs::read(&path).unwrap();
    assert!(before[bytes_of(extent)] == after[bytes_of(extent)]);
    let entry = entry_bytes(1).start as usize;
    assert_eq!(before[entry..entry + 8], after[entry..entry + 8]);
    let store = open(&path, Access::Read).unwrap();
    let problem = the_problem(&store);
    assert_eq!(problem.key.as_deref(), Some(&b"bad"[..]));
    assert!(store.scan(b"bad")[0].1.damaged);
}

#[test]
fn putting_or_deleting_a_damaged_key_ends_the_damage() {
    for delete in [false, true] {
        let (_folder, path, bytes) = pool();
        damage(&path, bytes);
        let store = open(&path, Access::Write).unwrap();
        if delete {
            assert!(store.del(b"bad").unwrap());
            assert!(store.get(b"bad").unwrap().is_none());
        } else {
            assert!(store.put(b"bad", b"better").unwrap());
            assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"better");
        }
        assert_eq!(store.stat().unwrap().usage.used, if delete { 1 } else { 2 });
        store.close();
        let store = open(&path, Access::Read).unwrap();
        assert_eq!(store.problems(), []);
        assert_eq!(
            store.get(b"bad").unwrap().as_deref(),
            (!delete).then_some(&b"better"[..])
        );
    }
}

#[test]
fn damage_that_comes_later_is_found_by_verify_and_not_moved() {
    let (_folder, path, bytes) = pool();
    fs::write(&path, &bytes).unwrap();
    let store = open(&path, Access::Write).unwrap();
    store.del(b"good").unwrap();
    // Rot, below an open pool.
    damage(&path, bytes);
    let value = store.get(b"bad").unwrap().unwrap();
    assert!(matches!(value.verify(), Err(Fault::Checksum { .. })));
    drop(value);
    let done = store.compact(Effort::Pack, || true).unwrap();
    assert_eq!((done.moved, done.skipped > 0), (0, true), "{done:?}");
}

#[test]
fn a_directory_of_noise_is_told_and_does_not_panic() {
    let (_folder, path, mut bytes) = pool();
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for slot in 2..CAPACITY {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let at = (DIRECTORY * PAGE + slot * 8) as usize;
        // Some with small numbers, so that they name pages there are.
        let word = if slot % 3 == 0 {
            noise & 0x1f_0000_001f
        } else {
            noise
        };
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let store = read(&path, &bytes).unwrap();
    assert!(
        store.problems().len() as u64 >= CAPACITY - 4,
        "{}",
        store.problems().len()
    );
    assert_eq!(&*store.get(b"good").unwrap().unwrap(), b"the value of good");
    assert_eq!(&*store.get(b"bad").unwrap().unwrap(), b"the value of bad");
}
