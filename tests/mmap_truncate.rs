//! The program `examples/mmap_truncate`: what it shows, with the lease and without.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[path = "support/program.rs"]
mod program;

use std::path::PathBuf;
use std::thread;

use crate::program::{Run, folders};

/// Cut and punched for ten seconds under readers on every page, on each file system: nobody gets a SIGBUS,
/// zeroes or old bytes; and readers were really in the way.
#[test]
fn with_the_lease_readers_never_notice() {
    let run = |folder: PathBuf| {
        let dir = folder.to_str().unwrap();
        Run::of("mmap_truncate", &["--seconds", "10", "--dir", dir])
    };
    // Side by side: ten seconds are long enough.
    let runs = folders().into_iter().map(|f| thread::spawn(move || run(f)));
    for run in runs.collect::<Vec<_>>() {
        let run = run.join().unwrap();
        assert_eq!(run.status, Some(0));
        for wrong in [
            "pages read as zeroes",
            "pages read with other wrong bytes",
            "SIGBUS",
        ] {
            assert_eq!(run.number(wrong), 0);
        }
        for happened in [
            "of the page read least",
            "pins refused",
            "truncated",
            "punched",
            "breaks that waited",
        ] {
            assert!(run.number(happened) > 0, "{happened}: never");
        }
    }
}

/// The same program, the same timing, and nobody waits for the readers: they die, or read what they
/// should not.
#[test]
fn without_it_they_die_or_read_zeroes() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of(
            "mmap_truncate",
            &["--no-lease", "--seconds", "10", "--dir", dir],
        );
        assert_eq!(run.status, Some(1));
        let died = run.text.contains("died of SIGBUS");
        assert!(died || run.text.contains("a reader got"));
    }
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("mmap_truncate", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in ["--seconds", "--no-lease", "--dir", "Exit status"] {
        assert!(help.text.contains(word), "{word}");
    }
    assert_eq!(
        Run::of("mmap_truncate", &["--seconds", "0"]).status,
        Some(2)
    );
    let nowhere = Run::of("mmap_truncate", &["--dir", "/nowhere at all"]);
    assert_eq!(nowhere.status, Some(2));
    assert!(nowhere.text.contains("/nowhere at all"));
}
