//! The auto traits of every public type, those that it has and those that it must not have. None of them is written
//! down in the source, so a field can change them unnoticed; each is a promise to users all the same.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::marker::{PhantomData, PhantomPinned};
use std::panic::{RefUnwindSafe, UnwindSafe};

use layout_lease::maps::*;
use layout_lease::*;

/// `Probe::<T>::SEND` is the inherent constant where `T: Send`, else that of the trait.
struct Probe<T>(PhantomData<T>);

trait Lacks {
    const SEND: bool = false;
    const SYNC: bool = false;
    const UNPIN: bool = false;
    const UNWIND: bool = false;
    const REF_UNWIND: bool = false;
}
impl<T> Lacks for Probe<T> {}
impl<T: Send> Probe<T> {
    const SEND: bool = true;
}
impl<T: Sync> Probe<T> {
    const SYNC: bool = true;
}
impl<T: Unpin> Probe<T> {
    const UNPIN: bool = true;
}
impl<T: UnwindSafe> Probe<T> {
    const UNWIND: bool = true;
}
impl<T: RefUnwindSafe> Probe<T> {
    const REF_UNWIND: bool = true;
}

/// One row for each type, by its name without parameters.
macro_rules! matrix {
    ($($ty:ty => $traits:expr,)+) => {
        [$((stringify!($ty), traits!($ty), $traits)),+]
    };
}
macro_rules! traits {
    ($ty:ty) => {
        [
            (Probe::<$ty>::SEND, "Send"),
            (Probe::<$ty>::SYNC, "Sync"),
            (Probe::<$ty>::UNPIN, "Unpin"),
            (Probe::<$ty>::UNWIND, "UnwindSafe"),
            (Probe::<$ty>::REF_UNWIND, "RefUnwindSafe"),
        ]
    };
}

type Row = (&'static str, [(bool, &'static str); 5], &'static str);

#[track_caller]
fn check(rows: &[Row]) {
    let mut wrong = Vec::new();
    for (name, found, expected) in rows {
        let found = found.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
        let found = found.collect::<Vec<_>>().join(" ");
        if found != *expected {
            wrong.push(format!("{name}: {found:?}, should be {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
}

const ALL: &str = "Send Sync Unpin UnwindSafe RefUnwindSafe";

type Map = ExtentMap;

/// Every public type, with a map that has all of them. What may carry an engine's error or the payload of its panic,
/// or borrows guards of any kind, says nothing of unwinding.
fn all() -> Vec<Row> {
    matrix! {
        PagePin => ALL,
        PinToken => ALL,
        PinPages<'static, Map> => ALL,
        LayoutGuard<Map> => ALL,
        Stats => ALL,
        BlockOp<'static, Map> => ALL,
        BreakLayouts<'static, Map> => ALL,
        Close<'static, Map> => ALL,
        Drained<'static, Map> => ALL,
        BreakError => ALL,
        OpError<ExtentError> => ALL,
        PinError => ALL,
        TryBreakError => ALL,
        TryPinError => ALL,
        Holder => ALL,
        HolderKind => ALL,
        LayoutLease => ALL,
        LeasePages<'static, Map> => ALL,
        PageRange => ALL,
        RangeError => ALL,
        Barrier => ALL,
        BreakLeases<'static, Map> => ALL,
        LeaseFree<'static, Map> => ALL,
        Recalled<'static> => ALL,
        Retired<Map> => "Send Sync Unpin",
        RetiredReady<'static, Map> => ALL,
        BreakMany<'static> => "Send Sync Unpin",
        DrainedMany<'static> => ALL,
        DrainedOf<'static, Map> => ALL,
        Extent => ALL,
        ExtentError => ALL,
        ExtentMap => ALL,
        FileBlocks => ALL,
        FileError => "Send Sync Unpin",
        FileOp => ALL,
        FileSystem => ALL,
    }
    .to_vec()
}

#[test]
fn with_a_map_that_has_them() {
    check(&all());
}

/// A guard hands out its map, so whatever leads to the guard is as good as the map is. What does not, is not
/// concerned.
#[test]
fn with_a_map_for_one_thread() {
    type One = Cell<u8>;
    check(&matrix! {
        LayoutGuard<One> => "Send Unpin UnwindSafe",
        PinPages<'static, One> => "Unpin",
        BreakLayouts<'static, One> => "Unpin",
        Close<'static, One> => "Unpin",
        Drained<'static, One> => "Unpin",
        LeasePages<'static, One> => "Unpin",
        BreakLeases<'static, One> => "Unpin",
        LeaseFree<'static, One> => "Unpin",
        RetiredReady<'static, One> => "Unpin",
        DrainedOf<'static, One> => "Unpin",
    });
}

/// What borrows the guard does not move the map.
#[test]
fn with_a_map_that_must_not_move() {
    type Pinned = PhantomPinned;
    check(&matrix! {
        LayoutGuard<Pinned> => "Send Sync UnwindSafe RefUnwindSafe",
        PinPages<'static, Pinned> => ALL,
        BreakLayouts<'static, Pinned> => ALL,
        Close<'static, Pinned> => ALL,
        Drained<'static, Pinned> => ALL,
        LeasePages<'static, Pinned> => ALL,
        BreakLeases<'static, Pinned> => ALL,
        LeaseFree<'static, Pinned> => ALL,
        RetiredReady<'static, Pinned> => ALL,
        DrainedOf<'static, Pinned> => ALL,
    });
}

/// A pin is two words, a token one; nor does an `Option` make them larger.
#[test]
fn sizes() {
    assert_eq!(size_of::<PagePin>(), 16);
    assert_eq!(size_of::<Option<PagePin>>(), 16);
    assert_eq!(size_of::<PinToken>(), 8);
    assert_eq!(size_of::<PageRange>(), 16);
}

/// No type is forgotten: what the front door names, a row names.
#[test]
fn every_public_type_has_a_row() {
    let rows = all();
    let rows: BTreeSet<_> = rows
        .iter()
        .map(|(name, ..)| name.split(['<', ' ']).next().unwrap())
        .collect();
    let mut missing = Vec::new();
    for file in ["src/lib.rs", "src/maps/mod.rs"] {
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let uses = text.split("pub use ").skip(1);
        for names in uses.map(|u| u.split(';').next().unwrap()) {
            let names = names.rsplit("::").next().unwrap();
            let names = names.split(|c: char| !c.is_alphanumeric() && c != '_');
            let types = names.filter(|n| n.starts_with(char::is_uppercase));
            // Traits, which have none.
            let types = types.filter(|n| !["BlockMap", "AnyGuard"].contains(n));
            missing.extend(types.filter(|n| !rows.contains(n)).map(str::to_owned));
        }
    }
    assert!(missing.is_empty(), "without a row: {missing:?}");
}
