//! The program `examples/collision`: what it shows, with the lease and without.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[expect(
    dead_code,
    reason = "made for programs whose rows have one number each"
)]
#[path = "support/program.rs"]
mod program;

use crate::program::{Run, folders};

const OPS: [&str; 5] = ["truncate", "punch", "collapse", "insert", "zero"];

/// The columns of the row of `op`: rounds, reads, MiB, breaks, pins, longest, bytes hit, overwritten.
fn columns(run: &Run, op: &str) -> Vec<String> {
    let row = run.text.lines().find(|line| line.starts_with(op));
    let row = row.unwrap_or_else(|| panic!("there is no row {op:?}"));
    let columns: Vec<_> = row.split_whitespace().skip(1).map(str::to_owned).collect();
    assert_eq!(columns.len(), 8, "{row:?}");
    columns
}

/// Every operation met reads in flight and waited for them, and no byte went astray.
#[test]
fn with_the_lease_no_byte_goes_astray() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of("collision", &["--seconds", "1", "--dir", dir]);
        assert_eq!(run.status, Some(0));
        for op in OPS {
            let columns = columns(&run, op);
            assert_eq!(columns[6..], ["0", "0"], "{op}");
            for n in [0, 1, 3, 4] {
                assert_ne!(columns[n], "0", "{op}: column {n}");
            }
        }
    }
}

/// The same program, the same timing, and nobody waits: each operation is hit.
#[test]
fn without_it_bytes_reach_freed_blocks() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of("collision", &["--no-lease", "--seconds", "2", "--dir", dir]);
        assert_eq!(run.status, Some(1));
        for op in OPS {
            assert_ne!(columns(&run, op)[6], "0", "{op}: not hit");
        }
    }
}

/// A pin that never goes is a hang, not a pause: the program ends by itself, and says whose pin it is.
#[test]
fn a_lost_completion_is_a_hang_that_is_named() {
    let args = ["--lose-one", "--patience", "1", "--op", "punch"];
    let run = Run::of("collision", &args);
    assert_eq!(run.status, Some(3));
    assert!(run.text.contains("Punch hangs"));
    assert!(run.text.contains("pin of pages"));
    assert!(run.text.contains("examples/collision/main.rs:"));
    assert!(run.text.contains("awaited for"));
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("collision", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in [
        "--seconds",
        "--no-lease",
        "--lose-one",
        "--op",
        "--dir",
        "Exit status",
    ] {
        assert!(help.text.contains(word), "{word}");
    }
    assert_eq!(
        Run::of("collision", &["--op", "defragment"]).status,
        Some(2)
    );
    let nowhere = Run::of("collision", &["--dir", "/nowhere at all"]);
    assert_eq!(nowhere.status, Some(2));
    assert!(nowhere.text.contains("/nowhere at all"));
}
