//! The rules of this house, kept by a test: which file is where, what it may import, how it is written down.
//!
//! Each rule is a function from texts to complaints ([`rules`], [`items`], [`named`]), and each bites: beside it
//! is a test with a small bad text. Here they are held against the repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "house/items.rs"]
mod items;
#[path = "house/named.rs"]
mod named;
#[path = "house/rules.rs"]
mod rules;
#[path = "house/source.rs"]
mod source;

/// Files above 600 lines, and why.
const LONG: &[(&str, &str)] = &[
    (
        "tests/pmem_kv_cli.rs",
        "one test for each command and option of the program",
    ),
    (
        "tests/pmem_kv_damage.rs",
        "one test for each kind of damage to a pool",
    ),
    (
        "tests/kernel_parity.rs",
        "one test for each answer of a file system's operations",
    ),
    (
        "tests/promises/retire.rs",
        "one test for each thing that can become of a retirement",
    ),
];

/// Test targets that scripts/test-counts does not name, and who counts them instead.
const COUNTED_ELSEWHERE: &[(&str, &str)] = &[
    (
        "tests/loom_",
        "scripts/mutants.sh fails if a model is missing that it names",
    ),
    (
        "tests/shuttle_",
        "scripts/shuttle.sh runs its scenes by name",
    ),
    (
        "tests/observed.rs",
        "needs features that `cargo test` does not turn on; scripts/preflight.sh names it",
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file below `folders` with one of these extensions, by its path from the root.
fn texts(folders: &[&str], extensions: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let inside = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
            left.extend(inside.filter(|p| !p.ends_with("target")));
            continue;
        }
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let wanted = match path.extension() {
            Some(extension) => extensions.iter().any(|e| extension == *e),
            None => extensions.contains(&""),
        };
        if let (true, Ok(text)) = (wanted, fs::read_to_string(&path)) {
            found.insert(name.to_owned(), text);
        }
    }
    assert!(!found.is_empty(), "nothing below {folders:?}");
    found
}

fn sources() -> BTreeMap<String, String> {
    texts(&["src"], &["rs"])
}

/// Everything that people wrote, but no generated text.
fn everything() -> BTreeMap<String, String> {
    let folders = [
        "src", "tests", "examples", "benches", "models", "docs", "scripts", ".ci", "fuzz",
    ];
    let there: Vec<&str> = folders
        .into_iter()
        .filter(|f| root().join(f).is_dir())
        .collect();
    let mut all = texts(&there, &["rs", "md", "sh", "py", "pml", "toml", "", "yml"]);
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".md") || name.ends_with(".toml") || name == "justfile" {
            all.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    all
}

#[track_caller]
fn none(rule: &str, complaints: Vec<String>) {
    assert!(
        complaints.is_empty(),
        "{rule}:\n  {}",
        complaints.join("\n  ")
    );
}

#[test]
fn every_source_file_is_on_the_map() {
    let front = read("src/lib.rs");
    none(
        "the map in src/lib.rs",
        rules::map(&front, &source::units(&sources())),
    );
}

#[test]
fn imports_go_down() {
    let floors = read("DESIGN.md");
    none(
        "the floors in DESIGN.md",
        rules::floors(&floors, &sources()),
    );
}

#[test]
fn atomics_and_locks_come_through_one_door() {
    none("src/sync.rs is the only door", rules::doors(&sources()));
}

#[test]
fn fences_are_in_one_file() {
    none(
        "fences live in src/raw/barrier.rs",
        rules::fences(&sources()),
    );
}

#[test]
fn nothing_is_unfinished() {
    none("unfinished", rules::unfinished(&everything()));
}

#[test]
fn every_example_is_compiled() {
    none("uncompiled", rules::uncompiled(&everything()));
}

#[test]
fn no_file_is_too_long() {
    let files = texts(&["src", "tests", "examples", "benches"], &["rs"]);
    none("600 lines", rules::too_long(&files, LONG));
}

#[test]
fn no_target_can_lose_its_tests() {
    let files = texts(&["tests", "examples"], &["rs"]);
    let counts = read("scripts/test-counts");
    none(
        "scripts/test-counts",
        rules::counts(&counts, &files, COUNTED_ELSEWHERE),
    );
}

#[test]
fn every_promise_has_tests_of_its_number() {
    let promises = read("docs/promises.md");
    let files = texts(&["src", "tests"], &["rs"]);
    none(
        "the promises in docs/promises.md",
        rules::promises(&promises, &files),
    );
}

#[test]
fn every_public_item_has_an_example() {
    none("without an example", items::without_example(&sources()));
}

#[test]
fn every_link_leads_somewhere() {
    let files: BTreeMap<_, _> = everything()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".md"))
        .collect();
    let exists = |path: &str| root().join(path).exists();
    // The plots and BENCHMARKS.md are measured together.
    let measured = exists("BENCHMARKS.md");
    let is_there = |path: &str| {
        let is_measured = path == "BENCHMARKS.md" || path.starts_with("docs/plots/");
        exists(path) || (is_measured && !measured)
    };
    none("links", rules::links(&files, is_there));
}

#[test]
fn whatever_safety_names_exists() {
    let safety = read("SAFETY.md");
    let there = named::There {
        sources: texts(&["src", "tests"], &["rs"]),
        models: read("scripts/mutant-models"),
        is_file: &|path| root().join(path).exists(),
        scripts: texts(&["scripts"], &["sh"]),
    };
    none("SAFETY.md", named::missing(&safety, &there));
}

#[test]
fn a_mutant_that_a_page_names_is_there() {
    let models = read("scripts/mutant-models");
    none(
        "docs/orderings.md",
        named::gone(&read("docs/orderings.md"), &models),
    );
}

#[test]
fn the_guide_names_every_number_that_is_told() {
    let guide = read("src/docs/guide.rs");
    none(
        "src/docs/guide.rs",
        named::untold(&read("src/raw/told.rs"), &guide),
    );
}
