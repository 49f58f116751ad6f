//! The tests: every input of the corpus, the targets' controls, and what the corpus must contain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use layout_lease::{PagePin, PageRange, PinToken, RangeError};

use crate::bytes::Bytes;
use crate::hands::Hands;
use crate::outcome::Seen;
use crate::store::Store;
use crate::store::format::PAGE;
use crate::{lives, pools, ranges, tally, tokens};

/// Tokens are of the whole process: one target at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The corpus of a target, which is not empty.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz_replay/corpus")
        .join(target);
    let files = fs::read_dir(&folder).expect("the corpus is there");
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// Runs every input, and says of which something was wrong.
fn failures(target: &str, mut run: impl FnMut(&[u8])) -> Vec<String> {
    let mut failures = Vec::new();
    let inputs = corpus(target);
    let n = inputs.len();
    for (path, bytes) in inputs {
        if panic::catch_unwind(AssertUnwindSafe(|| run(&bytes))).is_err() {
            failures.push(path.display().to_string());
        }
    }
    eprintln!("{target}: {n} inputs, {} failed", failures.len());
    failures
}

#[track_caller]
fn replayed(target: &str, expected: &[&str], run: impl Fn(&[u8], &mut Seen)) {
    let mut seen = Seen::new();
    let failures = failures(target, |bytes| run(bytes, &mut seen));
    assert!(failures.is_empty(), "{failures:#?}");
    let mut counts = BTreeMap::new();
    for one in seen {
        *counts.entry(one).or_insert(0_u64) += 1;
    }
    eprintln!("{target}: {counts:?}");
    let never: Vec<_> = expected
        .iter()
        .filter(|e| !counts.contains_key(*e))
        .collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}

/// A control: the corpus must find that the subject is broken. Panics are expected, so they are not printed.
#[track_caller]
fn found(target: &str, run: impl Fn(&[u8])) {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let failures = failures(target, run);
    panic::set_hook(loud);
    assert!(!failures.is_empty(), "the corpus does not find it");
}

#[test]
fn lives_agree_with_the_twin() {
    let _alone = alone();
    let hands = Hands::new();
    let failures = failures("lives", |bytes| lives::run(bytes, &hands));
    assert!(failures.is_empty(), "{failures:#?}");
    let never = tally::report("lives: what came about");
    assert!(never.is_empty(), "never happened: {never:?}");
}

/// The control: a twin that has a rule wrong, in a process of its own.
#[test]
fn a_mistaken_twin_is_found() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "replay::lives_agree_with_the_twin"])
        .args(["--nocapture", "--test-threads=1"])
        .env("TWIN_MISTAKEN", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find(|line| line.starts_with("lives: "));
    let count = count.unwrap_or_else(|| panic!("it has not come to its end: {said}"));
    eprintln!("with a mistaken twin, {count}");
    assert!(!output.status.success() && !count.ends_with(" 0 failed"));
}

#[test]
fn every_kind_of_step_can_be_drawn() {
    let drawn: BTreeSet<usize> = (0..=u8::MAX)
        .map(|n| lives::kind_of(&lives::step(&mut Bytes::new(&[n]))))
        .collect();
    assert_eq!(drawn, (0..lives::KINDS).collect());
}

#[test]
fn no_number_but_a_token_redeems() {
    let _alone = alone();
    let expected = [
        "redeemed",
        "stale",
        "another generation",
        "implausible",
        "invented",
    ];
    replayed("tokens", &expected, |bytes, seen| {
        tokens::run(bytes, tokens::REAL, seen);
    });
}

#[test]
fn ranges_are_those_of_exact_arithmetic() {
    let _alone = alone();
    let expected = [
        "a range",
        "empty",
        "inverted",
        "unaddressable",
        "page size",
        "whole pages",
        "no whole page",
        "overlap",
        "apart",
        "busy",
        "refused",
    ];
    replayed("ranges", &expected, |bytes, seen| {
        ranges::run(bytes, ranges::REAL, seen);
    });
}

#[test]
fn whatever_the_pool_file_says() {
    let _alone = alone();
    let expected = [
        "truncated",
        "no pool",
        "version",
        "both superblocks",
        "superblocks differ",
        "entry",
        "beyond the end",
        "magic",
        "checksum",
        "field",
        "lengths",
        "overlap",
        "superseded",
        "note",
        "damaged",
        "full",
        "directory full",
        "no number left",
        "a flip told",
        "a flip of nothing",
    ];
    replayed("pools", &expected, |bytes, seen| {
        pools::run(bytes, pools::REAL, seen);
    });
}

// -------------------------------------------------------------------------------------- controls

/// Redeems whatever token of the slot is out, without a look at the generation.
#[test]
fn control_generation_not_looked_at() {
    thread_local! {
        static MADE: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    fn make(pin: PagePin) -> u64 {
        let number = pin.into_token().to_u64();
        MADE.with_borrow_mut(|made| made.push(number));
        number
    }
    fn redeem(number: u64) -> Option<PagePin> {
        let same_slot = |made: &&u64| **made as u32 == number as u32;
        let last = MADE.with_borrow(|made| made.iter().rev().find(same_slot).copied());
        PinToken::from_u64(last.filter(|_| number >> 32 & 1 == 1)?)?.redeem()
    }
    let _alone = alone();
    found("tokens", |bytes| {
        tokens::run(bytes, tokens::Subject { make, redeem }, &mut Seen::new());
    });
}

/// Rounds up before it divides, in `u64`.
#[test]
fn control_rounding_up_overflows() {
    fn covering(bytes: Range<u64>, size: u64) -> Result<PageRange, RangeError> {
        if !size.is_power_of_two() {
            return Err(RangeError::PageSize { page_size: size });
        }
        let bytes = PageRange::new(bytes.start, bytes.end)?;
        PageRange::new(
            bytes.start() / size,
            bytes.end().wrapping_add(size - 1) / size,
        )
    }
    let _alone = alone();
    let subject = ranges::Subject {
        covering,
        ..ranges::REAL
    };
    found("ranges", |bytes| {
        ranges::run(bytes, subject, &mut Seen::new());
    });
}

/// Rounds outward what must be rounded inward.
#[test]
fn control_rounded_the_wrong_way() {
    let _alone = alone();
    let subject = ranges::Subject {
        within: |bytes, size| PageRange::covering_bytes(bytes, size).map(Some),
        ..ranges::REAL
    };
    found("ranges", |bytes| {
        ranges::run(bytes, subject, &mut Seen::new());
    });
}

/// Takes the end that is included for the one behind.
#[test]
fn control_last_page_forgotten() {
    use std::ops::Bound::{Excluded, Included};
    let _alone = alone();
    let subject = ranges::Subject {
        from_bounds: |bounds| match bounds {
            (start, Included(end)) => PageRange::from_bounds((start, Excluded(end))),
            bounds => PageRange::from_bounds(bounds),
        },
        ..ranges::REAL
    };
    found("ranges", |bytes| {
        ranges::run(bytes, subject, &mut Seen::new());
    });
}

/// Serves what is there, sound or not.
#[test]
fn control_damage_is_served() {
    fn get(store: &Store, path: &Path, key: &[u8]) -> pools::Got {
        let all = store.scan(key);
        let Some((_, entry)) = all.into_iter().find(|(found, _)| **found == *key) else {
            return Ok(None);
        };
        let file = fs::read(path).unwrap();
        let at = (entry.extent.start() * PAGE) as usize;
        Ok(Some(file[at..at + entry.value_len as usize].to_vec()))
    }
    let _alone = alone();
    found("pools", |bytes| {
        pools::run(bytes, pools::Subject { get }, &mut Seen::new());
    });
}
