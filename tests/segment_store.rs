//! The program `examples/segment_store`: what it shows, with the lease and without.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[path = "support/program.rs"]
mod program;

use crate::program::{Run, folders};

/// Segments are emptied, punched and filled anew under those who read in them: no byte is wrong, and readers were
/// really in the way.
#[test]
fn with_the_lease_every_byte_is_its_own() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of("segment_store", &["--seconds", "1", "--dir", dir]);
        assert_eq!(run.status, Some(0));
        assert_eq!(run.number("records with a wrong byte"), 0);
        for happened in [
            "records read",
            "records appended",
            "segments compacted",
            "records copied",
            "pages freed",
            "breaks that waited",
            "segments cut",
        ] {
            assert!(run.number(happened) > 0, "{happened}: never");
        }
    }
}

/// The same program, the same timing, and nobody waits for the readers: records turn into others while they are read.
#[test]
fn without_it_records_turn_into_others() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of(
            "segment_store",
            &["--no-lease", "--seconds", "3", "--dir", dir],
        );
        assert_eq!(run.status, Some(1));
        assert!(run.number("records with a wrong byte") > 0);
        assert_eq!(run.number("breaks that waited"), 0);
    }
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("segment_store", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in ["--seconds", "--no-lease", "--dir", "Exit status"] {
        assert!(help.text.contains(word), "{word}");
    }
    assert_eq!(
        Run::of("segment_store", &["--seconds", "0"]).status,
        Some(2)
    );
    let nowhere = Run::of("segment_store", &["--dir", "/nowhere at all"]);
    assert_eq!(nowhere.status, Some(2));
    assert!(nowhere.text.contains("/nowhere at all"));
}
