//! Arbitrary pool files, and flipped bits in sound ones, for the store of `examples/pmem_kv`: open, read all,
//! recover, write, compact, open again. Whatever the file says: typed errors and findings, no panic, no byte
//! from outside the file (that would be a SIGBUS), and never a value that nobody stored.
//!
//! An input is a base (no file, a small pool, one with a directory of two pages) and some changes. When the
//! changes are at most three flipped bits, which the checksum finds wherever they are, what is served must
//! be what was stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::bytes::Bytes;
use crate::outcome::Seen;
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::{
    FOOTER, Fault, Geometry, PAGE, SUPERBLOCK, Superblock, entry_bytes, tail_of, unpack,
};
use crate::store::media::VolatileMedia;
use crate::store::{Access, Store};

/// What is tried: the crate's `get`, or for the control a broken one.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) get: fn(&Store, &Path, &[u8]) -> Got,
}

pub(crate) type Got = Result<Option<Vec<u8>>, StoreError>;

pub(crate) const REAL: Subject = Subject {
    get: |store, _, key| {
        let value = store.get(key)?;
        Ok(value.map(|value| {
            assert_eq!(value.verify(), Ok(()), "what is served is sound");
            value.to_vec()
        }))
    },
};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

const CHANGES: usize = 24;
/// No file gets longer than this.
const LONGEST: usize = 48 * PAGE as usize;
const KEYS: [&[u8]; 5] = [b"empty", b"long", b"short", b"page", b"other"];

/// A sound pool and what was stored in it.
#[derive(Clone, Default)]
struct Base {
    bytes: Vec<u8>,
    records: Records,
}

fn open(path: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(path, access, Some(Box::new(VolatileMedia)))
}

fn make(capacity: u64) -> Base {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("base.pool");
    let store = Store::create(&path, capacity * PAGE, Some(Box::new(VolatileMedia)));
    let store = store.expect("a pool");
    let mut records = Records::new();
    let mut put = |key: &[u8], value: Vec<u8>| {
        store.put(key, &value).expect("there is room");
        records.insert(key.to_vec(), value);
    };
    put(b"gone", vec![1; 5000]);
    put(b"empty", Vec::new());
    put(b"long", (0..9000_u32).map(|n| n as u8).collect());
    put(b"short", b"the value of short".to_vec());
    put(b"page", vec![0x5a; PAGE as usize]);
    put(b"short", b"another value of short".to_vec());
    store.del(b"gone").expect("it was there");
    records.remove(&b"gone"[..]);
    store.compact(Effort::Fit, || true).expect("it can");
    store.close();
    let mut bytes = fs::read(&path).expect("the file");
    // A random number, which would make every run another one.
    let mut superblock = Superblock::decode(&bytes).expect("it is sound");
    superblock.id = 7;
    for copy in 0..2 {
        let at = copy * PAGE as usize;
        bytes[at..at + SUPERBLOCK].copy_from_slice(&superblock.encode());
    }
    Base { bytes, records }
}

/// Reads eight bytes of the file, if it has them.
fn word(file: &[u8], at: usize) -> u64 {
    let bytes = file.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn write(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = file.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The bytes of the record that entry `slot` names, if the file has them.
fn record(file: &[u8], slot: u64) -> Option<std::ops::Range<usize>> {
    let entry = unpack(word(file, entry_bytes(slot).start as usize))?;
    let end = (entry.start + entry.pages) as usize * PAGE as usize;
    let start = entry.start as usize * PAGE as usize;
    (end <= file.len() && start < end).then_some(start..end)
}

/// Makes a record's checksum right, and its entry's tag.
fn seal(file: &mut [u8], slot: u64) {
    let Some(bytes) = record(file, slot) else {
        return;
    };
    let at = bytes.end - FOOTER + 8;
    file[at..at + 4].fill(0);
    let crc = crc32c::crc32c(&file[bytes]).to_le_bytes();
    write(file, at, &crc);
    write(file, entry_bytes(slot).start as usize + 7, &crc[..1]);
}

/// A place in the file where something is.
fn place(bytes: &mut Bytes<'_>, file: &[u8]) -> usize {
    let kind = bytes.byte();
    let pick = usize::from(kind >> 3);
    match kind & 7 {
        0 => bytes.below(SUPERBLOCK),
        1 => PAGE as usize + bytes.below(SUPERBLOCK),
        2 | 3 => entry_bytes(pick as u64 % 8).start as usize + bytes.below(8),
        4 | 5 => match record(file, pick as u64 % 8) {
            Some(record) => record.end - 1 - bytes.below(FOOTER + 8),
            None => bytes.medium(),
        },
        6 => entry_bytes(bytes.medium() as u64).start as usize,
        _ => bytes.medium(),
    }
}

/// One change. Whether it was no more than a flipped bit.
fn change(bytes: &mut Bytes<'_>, file: &mut Vec<u8>) -> bool {
    match bytes.below(12) {
        0..=2 => {
            let (at, bit) = (place(bytes, file), bytes.below(8));
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << bit;
            }
            return true;
        }
        3 => {
            let at = place(bytes, file);
            write(file, at, &[bytes.byte()]);
        }
        4 => {
            let at = place(bytes, file);
            write(file, at, &bytes.number().to_le_bytes());
        }
        5 => file.resize(bytes.medium() % LONGEST, 0),
        6 => file.resize(bytes.below(48) * PAGE as usize, 0),
        7 => {
            let (from, to) = (bytes.below(48), bytes.below(48));
            let page = |n: usize| n * PAGE as usize..(n + 1) * PAGE as usize;
            if let Some(copy) = file.get(page(from)).map(<[u8]>::to_vec) {
                write(file, page(to).start, &copy);
            }
        }
        // An entry: as a rule of pages that there are.
        8 => {
            let (slot, start, pages) = (bytes.below(40), bytes.below(48), bytes.below(32));
            let word = start as u64 | (pages as u64) << 32;
            write(
                file,
                entry_bytes(slot as u64).start as usize,
                &word.to_le_bytes(),
            );
            seal(file, slot as u64);
        }
        // A whole record, as a writer with another idea of what is free would put it.
        9 => {
            let (slot, start, key) = (bytes.below(40) as u64, bytes.below(40), bytes.below(5));
            let (len, seq) = (bytes.medium() % 10_000, bytes.number());
            let value = vec![0xf0 | slot as u8; len];
            let (tail, _) = tail_of(KEYS[key], &value, seq, slot);
            let bytes = [value, tail].concat();
            let end = start * PAGE as usize + bytes.len();
            file.resize(file.len().max(end), 0);
            let word = start as u64 | (bytes.len() as u64 / PAGE) << 32;
            write(file, start * PAGE as usize, &bytes);
            write(file, entry_bytes(slot).start as usize, &word.to_le_bytes());
            seal(file, slot);
        }
        // A field of a footer, and the checksum made right.
        10 => {
            let (slot, at) = (bytes.below(8) as u64, bytes.below(FOOTER / 4) * 4);
            let number = bytes.number().to_le_bytes();
            if let Some(record) = record(file, slot) {
                let len = number.len().min(FOOTER - at);
                write(file, record.end - FOOTER + at, &number[..len]);
                seal(file, slot);
            }
        }
        // A field of a superblock copy, or of both, and the checksum made right.
        _ => {
            let (copies, at) = (bytes.below(3), bytes.below(SUPERBLOCK / 4) * 4);
            let number = bytes.number().to_le_bytes();
            for copy in [0, 1].into_iter().filter(|copy| copies != 1 - copy) {
                let base = copy * PAGE as usize;
                let Some(raw) = file.get_mut(base..base + SUPERBLOCK) else {
                    continue;
                };
                let len = number.len().min(SUPERBLOCK - at);
                raw[at..at + len].copy_from_slice(&number[..len]);
                raw[8..12].fill(0);
                let crc = crc32c::crc32c(raw).to_le_bytes();
                raw[8..12].copy_from_slice(&crc);
            }
        }
    }
    false
}

/// The outcome's name. It can be told to people, too.
fn told(error: &StoreError) -> &'static str {
    assert!(!error.to_string().is_empty());
    match error {
        StoreError::Truncated { .. } => "truncated",
        StoreError::NoPoolFile(_) => "no pool",
        StoreError::Version { .. } => "version",
        StoreError::Superblock { .. } => "both superblocks",
        StoreError::SuperblocksDiffer => "superblocks differ",
        other => panic!("opening: {other}"),
    }
}

/// What the store serves, after a look at everything that it says.
fn served(store: &Store, path: &Path, subject: Subject, seen: &mut Seen) -> Records {
    let stat = store.stat().expect("the file is there");
    let (usage, first) = (
        stat.usage,
        Geometry {
            capacity: stat.capacity,
        }
        .first(),
    );
    assert_eq!(first + usage.used + usage.free, usage.file);
    assert_eq!(stat.problems, store.problems().len() as u64);
    for problem in store.problems() {
        assert!(problem.to_string().contains(&problem.slot.to_string()));
        seen.push(match problem.fault {
            Fault::Entry { .. } => "entry",
            Fault::BeyondEnd { .. } => "beyond the end",
            Fault::Magic { .. } => "magic",
            Fault::Checksum { .. } => "checksum",
            Fault::Field { .. } => "field",
            Fault::Lengths { .. } => "lengths",
            Fault::Overlap => "overlap",
            Fault::Superseded { .. } => "superseded",
        });
    }
    seen.extend(store.notes().iter().map(|_| "note"));
    let mut records = Records::new();
    let mut pages = Vec::new();
    for (key, entry) in store.scan(b"") {
        pages.push(entry.extent);
        assert!(first <= entry.extent.start() && entry.extent.end() <= usage.file);
        match (subject.get)(store, path, &key) {
            Ok(Some(value)) => drop(records.insert(key.into_vec(), value)),
            Err(StoreError::Damaged(problem)) if entry.damaged => {
                assert!(store.problems().contains(&problem));
                seen.push("damaged");
            }
            other => panic!("{:?}: {other:?}", key.escape_ascii().to_string()),
        }
    }
    pages.sort_unstable();
    let meet = pages.windows(2).find(|two| two[0].overlaps(&two[1]));
    assert_eq!(meet, None, "two records have the same pages");
    records
}

/// Changes a pool whose records are `records`, as a program would; they are what it must have then.
fn used(store: &Store, records: &mut Records, effort: Effort, seen: &mut Seen) {
    let mut put = |key: &[u8], value: &[u8]| match store.put(key, value) {
        Ok(_) => drop(records.insert(key.to_vec(), value.to_vec())),
        Err(StoreError::Space(_)) => seen.push("full"),
        Err(StoreError::DirectoryFull) => seen.push("directory full"),
        Err(StoreError::NoNumberLeft) => seen.push("no number left"),
        Err(other) => panic!("put: {other}"),
    };
    put(b"fresh", b"a new value");
    put(b"long", &[3; 6000]);
    store.del(b"page").expect("there or not");
    records.remove(&b"page"[..]);
    store.compact(effort, || true).expect("it can");
    for (key, value) in &*records {
        let found = store.get(key).expect("it was sound");
        assert_eq!(found.as_deref(), Some(&value[..]));
    }
}

pub(crate) fn run(data: &[u8], subject: Subject, seen: &mut Seen) {
    static BASES: [OnceLock<Base>; 3] = [const { OnceLock::new() }; 3];
    let mut bytes = Bytes::new(data);
    let base = bytes.below(3);
    let base = BASES[base].get_or_init(|| match base {
        0 => Base::default(),
        1 => make(32),
        _ => make(600),
    });
    let effort = [Effort::Fit, Effort::Pack][bytes.below(2)];
    let mut file = base.bytes.clone();
    let mut flips = (!file.is_empty()).then_some(0);
    for _ in 0..CHANGES {
        if bytes.is_empty() {
            break;
        }
        let flip = change(&mut bytes, &mut file);
        flips = flips.filter(|_| flip).map(|n| n + 1);
    }
    let flips = flips.filter(|n| *n <= 3);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.pool");
    fs::write(&path, &file).expect("a file");
    let mut records = match open(&path, Access::Read) {
        Ok(store) => {
            let records = served(&store, &path, subject, seen);
            // What is wrong is told, unless it is where nothing is.
            let told = !store.problems().is_empty() || !store.notes().is_empty();
            if let Some(flips) = flips {
                let right = |(key, value): &(&Vec<u8>, &Vec<u8>)| base.records[*key] == **value;
                assert!(records.iter().all(|record| right(&record)));
                let lost = base.records.len() - records.len();
                assert!(lost <= flips && (lost == 0 || told), "{lost} lost");
                seen.push(if told {
                    "a flip told"
                } else {
                    "a flip of nothing"
                });
            }
            records
        }
        Err(error) => {
            seen.push(told(&error));
            assert!(flips.is_none_or(|n| n > 1), "one bit: {error}");
            let writer = open(&path, Access::Write).map(|_| "a pool");
            let same = writer.map_err(|error| told(&error));
            assert_eq!(same, Err(told(&error)));
            assert!(
                fs::read(&path).expect("the file") == file,
                "it was refused, and changed"
            );
            return;
        }
    };
    assert!(
        fs::read(&path).expect("the file") == file,
        "reading has changed it"
    );

    let store = open(&path, Access::Write).expect("it could be read");
    assert!(served(&store, &path, subject, seen) == records);
    used(&store, &mut records, effort, seen);
    store.close();
    let store = open(&path, Access::Read).expect("it was repaired");
    assert!(
        store
            .notes()
            .iter()
            .all(|note| !note.contains("superblock"))
    );
    assert!(
        served(&store, &path, subject, seen) == records,
        "what was written is not what is there"
    );
}
