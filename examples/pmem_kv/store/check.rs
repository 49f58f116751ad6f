//! Recovery, which is also the check: walk the directory, verify every record that it names.
//!
//! There is no log to replay (see [`format`](super::format)). What the walk finds sound makes the
//! index and the free map; what it finds wrong is reported and kept: its directory entry and its
//! pages are not used again, so nothing of it is lost. The other records stay readable.

use std::collections::BTreeMap;

use layout_lease::LayoutGuard;

use super::error::Problem;
use super::format::{DirEntry, Fault, Geometry, decode, unpack};
use super::index::{Entry, Index};
use super::space::Pool;

/// What a walk has found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) index: Index,
    /// In the order of the directory.
    pub(crate) problems: Vec<Problem>,
    /// Directory entries that are taken, sound or not, in order.
    pub(crate) slots: Vec<u64>,
    /// The highest sequence number of a sound record.
    pub(crate) seq: u64,
}

/// Walks the directory of a pool that nothing else uses yet, and claims what is used in its free map.
pub(crate) fn walk(guard: &LayoutGuard<Pool>, geometry: Geometry) -> Walk {
    let mut walk = Walk::default();
    let mut sound: Vec<(Box<[u8]>, Entry)> = Vec::new();
    let mut unsound: Vec<(Problem, Option<Entry>)> = Vec::new();
    for slot in 0..geometry.slots() {
        let word = guard.map().load(slot).unwrap_or(0);
        let Some(entry) = unpack(word) else { continue };
        walk.slots.push(slot);
        match examine(guard, geometry, slot, word, entry) {
            Ok(record) => sound.push(record),
            Err(wrong) => unsound.push(*wrong),
        }
    }

    // The sound ones first, the newest of each key first: their claim is the better one.
    sound.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.seq));
    let space = guard.map().engine();
    let mut newest: BTreeMap<Box<[u8]>, u64> = BTreeMap::new();
    for (key, entry) in sound {
        let alone = space.claim(entry.extent);
        // Part of it is somebody else's: keep what is left, for evidence.
        space.claim_the_rest(entry.extent);
        let fault = if let Some(&by) = newest.get(&key) {
            Fault::Superseded { by }
        } else if !alone {
            Fault::Overlap
        } else {
            walk.seq = walk.seq.max(entry.seq);
            walk.index.set(&key, entry);
            newest.insert(key, entry.slot);
            continue;
        };
        walk.problems.push(Problem {
            slot: entry.slot,
            extent: Some(entry.extent),
            key: Some(key),
            fault,
        });
    }
    for (problem, entry) in unsound {
        let alone = problem.extent.is_some_and(|extent| {
            let claimed = space.claim(extent);
            // Part of it is somebody else's, or behind the end: keep what is left, for evidence.
            space.claim_the_rest(extent);
            claimed
        });
        // A record with only its checksum wrong still has its place under its key: a reader of that
        // key is told, and `put` and `del` of it replace or remove it.
        if let (Some(key), Some(entry), true) = (&problem.key, entry, alone) {
            if walk.index.get(key).is_none() {
                walk.index.set(key, entry);
            }
        }
        walk.problems.push(problem);
    }
    walk.problems.sort_by_key(|problem| problem.slot);
    walk
}

type Wrong = Box<(Problem, Option<Entry>)>;

/// Verifies the record that one directory entry names.
pub(crate) fn examine(
    guard: &LayoutGuard<Pool>,
    geometry: Geometry,
    slot: u64,
    word: u64,
    named: DirEntry,
) -> Result<(Box<[u8]>, Entry), Wrong> {
    let extent = named.extent(geometry);
    let wrong = |fault, key: Option<&[u8]>, entry| {
        let key = key.map(Box::from);
        Box::new((
            Problem {
                slot,
                extent,
                key,
                fault,
            },
            entry,
        ))
    };
    let Some(extent) = extent else {
        let fault = Fault::Entry {
            word,
            first: geometry.first(),
            capacity: geometry.capacity,
        };
        return Err(wrong(fault, None, None));
    };
    let Ok(bytes) = Pool::pin(guard, extent) else {
        let fault = Fault::BeyondEnd {
            needed: extent.end(),
            found: guard.map().engine().usage().file,
        };
        return Err(wrong(fault, None, None));
    };
    let (record, fault) = match decode(&bytes) {
        Ok(record) => (record, None),
        Err((fault, Some(record))) => (record, Some(fault)),
        Err((fault, None)) => return Err(wrong(fault, None, None)),
    };
    for (what, found, expected) in [
        ("the slot", record.slot, slot),
        ("the tag", u64::from(record.crc as u8), u64::from(named.tag)),
    ] {
        if found != expected && fault.is_none() {
            let fault = Fault::Field {
                what,
                found,
                expected,
            };
            return Err(wrong(fault, Some(record.key), None));
        }
    }
    let entry = Entry {
        slot,
        extent,
        value_len: record.value.len() as u64,
        seq: record.seq,
        damaged: fault.is_some(),
    };
    match fault {
        None => Ok((record.key.into(), entry)),
        Some(fault) => Err(wrong(fault, Some(record.key), Some(entry))),
    }
}
