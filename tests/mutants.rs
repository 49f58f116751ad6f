//! Holds the orderings of the code to the mutants that take them away.
//!
//! Every `Acquire`, `Release`, `AcqRel`, `SeqCst` and fence in `src/` either carries the name of a mutant
//! (`order!(Release, "slot_clear_relaxed")`), or stands with a reason in the table "Without a mutant" of
//! `docs/orderings.md`. Every mutant has a model that is to fail on it, and a row in the table "Mutants". So no ordering
//! comes in or goes out silently. That the models do fail, `scripts/mutants.sh` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The broken control of the hostile block map, which is no model's business.
const CONTROL: &str = "gate_ignored";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files below `folder`: path from the root, text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let files = walkdir::WalkDir::new(root().join(folder)).into_iter();
    let files = files.map(|entry| entry.unwrap().into_path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let name = |path: &Path| {
        path.strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    files.map(|path| (name(&path), read(&path))).collect()
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim()
}

/// The words of a line of code.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn orders_something(line: &str) -> bool {
    let orders = [
        "Acquire",
        "Release",
        "AcqRel",
        "SeqCst",
        "fence",
        "compiler_fence",
    ];
    words(line).any(|word| orders.contains(&word))
}

/// The names of the mutants in a piece of code: `order!(.., "name")`, `mutant!("name")`, and in
/// models `is_mutant("name")`.
fn mutants_in(text: &str) -> BTreeSet<String> {
    let openings = ["order!(", "mutant!(", "is_mutant("];
    let mut found = BTreeSet::new();
    for opening in openings {
        for rest in text.split(opening).skip(1) {
            let argument = rest.split(')').next().unwrap_or_default();
            found.extend(argument.split('"').nth(1).map(str::to_owned));
        }
    }
    found
}

/// The first columns of the table below `heading` in docs/orderings.md.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = read("docs/orderings.md");
    let below = text.split(&format!("## {heading}\n")).nth(1);
    let below = below.unwrap_or_else(|| panic!("docs/orderings.md has no section {heading:?}"));
    let rows = below.lines().take_while(|line| !line.starts_with("## "));
    let rows = rows.filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split(" | ");
        cells
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

/// Which model is to notice which mutant.
fn models_of_mutants() -> BTreeMap<String, String> {
    let list = read("scripts/mutant-models");
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let pairs: Vec<_> = lines.filter_map(pair).collect();
    let map: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(map.len(), pairs.len(), "scripts/mutant-models: one twice");
    map
}

#[test]
fn every_ordering_has_a_mutant_or_a_reason() {
    let reasons = table("Without a mutant");
    assert!(reasons.iter().all(|row| row.len() == 4), "{reasons:?}");
    let mut used = vec![0; reasons.len()];
    let (mut seen, mut bare) = (0, Vec::new());
    for (file, text) in sources("src") {
        let mut before = "";
        for line in text.lines().map(code) {
            let condition = std::mem::replace(&mut before, line);
            if line.starts_with("use ")
                || line.starts_with("pub(crate) use ")
                || !orders_something(line)
            {
                continue;
            }
            seen += 1;
            // In an argument of `order!`, or behind an `if !mutant!(..)`.
            if !mutants_in(line).is_empty() || !mutants_in(condition).is_empty() {
                continue;
            }
            let reason = |row: &Vec<String>| file.ends_with(&row[0]) && line.contains(&row[1]);
            match reasons.iter().position(reason) {
                Some(row) => used[row] += 1,
                None => bare.push(format!("{file}: {line}")),
            }
        }
    }
    assert!(seen > 30, "{seen} orderings: where are they?");
    assert!(
        bare.is_empty(),
        "no mutant, and no row of \"Without a mutant\" in docs/orderings.md:\n{}",
        bare.join("\n")
    );
    for (row, used) in reasons.iter().zip(used) {
        assert_eq!(row[2], used.to_string(), "how many are there of: {row:?}");
    }
}

#[test]
fn every_mutant_has_a_model_and_a_row() {
    let mut mutants = BTreeSet::new();
    let mut models = BTreeSet::new();
    for (file, text) in sources("src") {
        if file != "src/sync.rs" && file != "src/sync/model.rs" {
            mutants.extend(mutants_in(&text));
        }
    }
    for (file, text) in sources("tests") {
        if file.starts_with("tests/loom_") {
            mutants.extend(mutants_in(&text));
            let after = text.split("#[test]\nfn ").skip(1);
            models.extend(after.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
    assert!(mutants.remove(CONTROL), "where is the broken control?");
    let named = models_of_mutants();
    let keys: BTreeSet<_> = named.keys().cloned().collect();
    assert_eq!(
        mutants, keys,
        "left: the code, right: scripts/mutant-models"
    );
    let unknown: Vec<_> = named.values().filter(|m| !models.contains(*m)).collect();
    assert!(unknown.is_empty(), "no such model: {unknown:?}");
    let row = |cells: Vec<String>| (cells[0].clone(), cells[2].clone());
    let rows: BTreeMap<_, _> = table("Mutants").into_iter().map(row).collect();
    assert_eq!(
        rows, named,
        "left: docs/orderings.md, right: scripts/mutant-models"
    );
}
