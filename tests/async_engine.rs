//! The program `examples/async_engine`: what it shows, and what its mistake shows.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[path = "support/program.rs"]
mod program;

use crate::program::{Run, folders};

const ASTRAY: [&str; 3] = [
    "bytes misread",
    "bytes hit after the break",
    "bytes wrong in the file",
];

/// Everything happened that is to be shown, and no byte went astray.
#[test]
fn no_block_is_freed_under_a_task() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of("async_engine", &["--seconds", "2", "--dir", dir]);
        assert_eq!(run.status, Some(0));
        for row in ASTRAY {
            assert_eq!(run.number(row), 0, "{row}");
        }
        for row in [
            "reads",
            "writes",
            "while they waited to pin",
            "while they awaited I/O",
            "I/O that outlived its task",
            "holders in their way",
            "and were awaited again",
            "and were given up",
            "leases recalled",
            "that kept a part",
            "pages moved",
        ] {
            assert_ne!(run.number(row), 0, "{row}");
        }
        // A break that timed out goes one way or the other.
        let ways = run.number("and were awaited again") + run.number("and were given up");
        assert_eq!(ways, run.number("that timed out"));
        // It says who is in the way, and where in the source that one pinned or leased: of the first few, which
        // may be leases all.
        assert!(
            ["pin of pages", "lease of pages"]
                .iter()
                .any(|k| run.text.contains(k))
        );
        assert!(run.text.contains("examples/async_engine/tasks.rs:"));
        // And what it could not do.
        let in_memory = folder.starts_with("/dev/shm");
        assert_eq!(run.text.contains("no direct reads and writes"), in_memory);
    }
}

/// The same program, but a cancelled task takes its pin with it, while its I/O goes on.
#[test]
fn pins_that_go_with_the_task_are_too_short() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let args = ["--pin-in-task", "--seconds", "3", "--dir", dir];
        let run = Run::of("async_engine", &args);
        assert_eq!(run.status, Some(1));
        assert_ne!(ASTRAY.map(|row| run.number(row)), [0; 3]);
    }
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("async_engine", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in ["--seconds", "--pin-in-task", "--dir", "Exit status"] {
        assert!(help.text.contains(word), "{word}");
    }
    let nowhere = Run::of("async_engine", &["--dir", "/nowhere at all"]);
    assert_eq!(nowhere.status, Some(2));
    assert!(nowhere.text.contains("/nowhere at all"));
}
