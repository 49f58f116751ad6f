//! The program `examples/torture`, for a moment. That its litmus bites is `scripts/torture.sh`'s to show,
//! which builds the crate without its barriers.
#![cfg(all(target_os = "linux", not(lease_loom)))]

#[expect(
    dead_code,
    reason = "made for programs whose rows have one number each"
)]
#[path = "support/program.rs"]
mod program;

use crate::program::Run;

/// The numbers of each row of the litmus: rounds, on two processors, holder first, breaker first, neither,
/// forbidden.
fn litmus(run: &Run) -> Vec<Vec<u64>> {
    let rows = run.text.lines().filter(|line| {
        let name = line.split_whitespace().next();
        matches!(name, Some("pin" | "unpin"))
    });
    rows.map(|row| row.split_whitespace().flat_map(str::parse).collect())
        .collect()
}

/// All scenes, and nothing went wrong; the litmus was run in both shapes and all three modes.
#[test]
fn nothing_goes_wrong() {
    let run = Run::of("torture", &["--seconds", "2", "--seed", "7"]);
    assert_eq!(run.status, Some(0));
    let count = |wanted: fn(&str) -> bool| run.text.lines().filter(|line| wanted(line)).count();
    // It goes on until all has happened, so some may have come more than once.
    let without =
        ["Start", "Later"].map(|when| run.text.matches(&format!("refuse: Some({when})")).count());
    assert!(without.iter().all(|n| *n > 0), "{without:?}");
    assert_eq!(
        count(|line| line == "nothing went wrong"),
        1 + without.iter().sum::<usize>(),
        "of this process and those without membarrier"
    );
    let rows = litmus(&run);
    // The last six are of this process, those before of those without membarrier.
    assert!(rows.len() >= 6, "{rows:?}");
    for row in &rows[rows.len() - 6..] {
        let &[rounds, apart, holder, breaker, neither, forbidden] = &row[..] else {
            panic!("{row:?}");
        };
        assert_eq!(rounds, holder + breaker + neither, "a round is lost");
        assert_eq!(forbidden, 0);
        assert_ne!(apart, 0);
    }
}

/// Everything but the litmus and what other processes do happens in one mode, too.
#[test]
fn one_mode_is_enough_for_everything_but_the_refused() {
    let run = Run::of(
        "torture",
        &["--seconds", "1", "--mode", "fenced", "--scenes", "games"],
    );
    assert_eq!(run.status, Some(0));
    assert!(litmus(&run).is_empty());
    assert!(!run.text.contains("processes without membarrier"));
}

#[test]
fn it_says_how_it_is_used() {
    let help = Run::of("torture", &["--help"]);
    assert_eq!(help.status, Some(0));
    for word in ["--seconds", "--seed", "--mode", "--scenes", "Exit status"] {
        assert!(help.text.contains(word), "{word}");
    }
    assert_eq!(Run::of("torture", &["--seconds", "0"]).status, Some(2));
    assert_eq!(Run::of("torture", &["--mode", "gentle"]).status, Some(2));
}
