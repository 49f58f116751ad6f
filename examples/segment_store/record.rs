//! A record: key, version and length, and then bytes that follow from them, so that each byte can be checked.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::store::{Outcome, Place, SEGMENT};

/// Three numbers of eight bytes.
pub(crate) const HEAD: u64 = 24;

/// The byte at `offset` of the record.
pub(crate) fn byte(key: u64, version: u64, len: u64, offset: u64) -> u8 {
    match offset {
        0..HEAD => [key, version, len][offset as usize / 8].to_le_bytes()[offset as usize % 8],
        // The odd factor keeps records apart that are next to each other in key and version.
        _ => ((key << 20 ^ version << 8 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8,
    }
}

pub(crate) fn of(key: u64, version: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| byte(key, version, len, at)).collect()
}

/// Reads the whole file as one does who opens it after a crash: the newest record of each key, byte by byte.
pub(crate) fn scan(file: &File) -> Outcome<HashMap<u64, Place>> {
    let mut found: HashMap<u64, Place> = HashMap::new();
    let mut segment = vec![0; SEGMENT as usize];
    for start in (0..file.metadata()?.len()).step_by(SEGMENT as usize) {
        segment.fill(0);
        let there = (file.metadata()?.len() - start).min(SEGMENT);
        file.read_exact_at(&mut segment[..there as usize], start)?;
        let mut at = 0;
        while at + HEAD <= SEGMENT {
            let number = |i: usize| {
                let from = at as usize + 8 * i;
                u64::from_le_bytes(segment[from..from + 8].try_into().unwrap())
            };
            let (key, version, len) = (number(0), number(1), number(2));
            if len == 0 {
                break; // the end of the segment, or a hole
            }
            let place = Place {
                at: start + at,
                len,
                version,
            };
            let record = segment.get(at as usize..at.saturating_add(len) as usize);
            if record != Some(&of(key, version, len)) {
                return Err(format!("not a record: {place:?} of key {key}").into());
            }
            let newest = found.entry(key).or_insert(place);
            if newest.version <= version {
                *newest = place;
            }
            at += len;
        }
    }
    Ok(found)
}
