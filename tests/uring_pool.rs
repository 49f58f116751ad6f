//! The program `examples/uring_pool`: what it shows, and what its mistakes show.
#![cfg(all(target_os = "linux", not(any(lease_loom, lease_shuttle))))]

#[path = "support/program.rs"]
mod program;

use crate::program::{Run, folders};

const ASTRAY: [&str; 5] = [
    "bytes misread",
    "bytes overwritten in flight",
    "bytes garbled in messages",
    "bytes hit after the break",
    "bytes wrong in the file",
];

/// Everything happened that is to be shown, and no byte went astray.
#[test]
fn no_buffer_is_used_under_a_request() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let run = Run::of("uring_pool", &["--seconds", "1", "--dir", dir]);
        assert_eq!(run.status, Some(0));
        for row in ASTRAY {
            assert_eq!(run.number(row), 0, "{row}");
        }
        for row in [
            "records read",
            "records written",
            "messages",
            "leases recalled",
            "pins waited for",
            "of abandoned requests",
            "completed for nobody",
            "requests cancelled by client",
            "requests cancelled by recall",
            "that ended early",
            "pages given back",
        ] {
            assert_ne!(run.number(row), 0, "{row}");
        }
        // What is not there any more had to be given back, and came back.
        let (grown, shrunk) = (
            run.number("buffers grown by"),
            run.number("buffers shrunk by"),
        );
        assert!(grown <= shrunk + 32, "{grown} {shrunk}");
        assert!(run.number("smallest pool") < run.number("largest pool"));
        // Whoever went away, its request came to its end.
        assert_eq!(
            run.number("completed for nobody"),
            run.number("requests dropped")
        );
    }
}

/// The same program, but the pin goes when the client does: the usual mistake, and bytes go astray.
#[test]
fn pins_that_go_with_the_client_are_too_short() {
    for folder in folders() {
        let dir = folder.to_str().unwrap();
        let args = ["--pin-in-handle", "--seconds", "2", "--dir", dir];
        let run = Run::of("uring_pool", &args);
        assert_eq!(run.status, Some(1));
        assert_ne!(ASTRAY.map(|row| run.number(row)), [0; 5]);
    }
}

/// Nobody is waited for: bytes go astray.
#[test]
fn without_leases_and_pins_bytes_go_astray() {
    let run = Run::of("uring_pool", &["--no-lease", "--seconds", "1"]);
    assert_eq!(run.status, Some(1));
    assert_eq!(run.number("pins waited for"), 0);
    assert_ne!(run.number("bytes misread"), 0);
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("uring_pool", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in ["--seconds", "--no-lease", "--pin-in-handle", "Exit status"] {
        assert!(help.text.contains(word), "{word}");
    }
    let nowhere = Run::of("uring_pool", &["--dir", "/nowhere at all"]);
    assert_eq!(nowhere.status, Some(2));
    assert!(nowhere.text.contains("/nowhere at all"));
    // More than a ring can have: as if there were none.
    let refused = Run::of("uring_pool", &["--buffers", "40000"]);
    assert_eq!(refused.status, Some(2));
    assert!(refused.text.contains("io_uring is refused"));
}
