//! Holds the names in the Promela models of the handshake to the code.
//!
//! Each step in `models/*.pml` carries, in brackets, the name of the function of `src/raw` that it stands
//! for; `models/README.md` has them in a table, with their files. If a function is renamed, moves or goes, or
//! its tag or its row does, the models may no longer say what the code does: look at both before you make
//! this test pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What the model of the handshake follows step by step, and so must have a tag for.
const MODELLED: &[&str] = &[
    // protocol.rs: pinners
    "try_pin",
    "try_pin_elsewhere",
    "is_shy",
    "make_shy",
    "look_that_counts",
    "count_fenced_pin",
    "charge",
    "look_again",
    "refuses",
    "unpin",
    "unpin_watched",
    "unpin_contended",
    // turns.rs, ending.rs: breakers
    "close_ranges",
    "start_break",
    "enter",
    "break_alone",
    "write_down",
    "close_gate",
    "look",
    "publish_gate",
    "poll_break",
    "take_out",
    "reopen",
    "try_close_ranges",
    "try_again",
    "close",
    // barrier.rs
    "light",
    "full",
    "everywhere",
    // adapt.rs
    "begin_break",
    "execute",
    "learn",
    "count_down",
    // gate.rs
    "overlaps",
    "is_open",
    "is_open_to_fenced",
    "is_fenced",
    "shut",
    // blocks.rs, slots.rs, scan.rs
    "at_hand",
    "publish",
    "fill",
    "clear",
    "snapshot",
    "scan",
    "count",
    // queue.rs, entry.rs
    "closed",
    "is_taken",
    "keeps_waiting",
    "refuse",
    "remove",
    "remove_quiet",
    "settle",
    "settle_last",
    "released",
    "draining",
    "drain",
    "left",
    "set_drained",
    "conclude",
    "push_drained",
    // wait.rs, record.rs
    "spin",
    "hang",
    "wake",
    "ring",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files in `folder` whose names end in `extension`: name, text.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == extension));
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.map(|path| (name(&path), read(&path))).collect()
}

fn is_name(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// The names that stand between `open` and `close`.
fn between(text: &str, open: &str, close: char) -> BTreeSet<String> {
    let after = text.split(open).skip(1);
    let words = after.filter_map(|rest| rest.split_once(close));
    let names = words.map(|(word, _)| word).filter(|word| is_name(word));
    names.map(str::to_owned).collect()
}

/// The names in brackets in a model's comments. (An index of an array is never behind `/*`.)
fn tags_in(model: &str) -> BTreeSet<String> {
    let comments = model.split("/*").skip(1);
    let comments = comments.filter_map(|rest| rest.split_once("*/"));
    comments.flat_map(|(c, _)| between(c, "[", ']')).collect()
}

/// Those of all models.
fn tags() -> BTreeSet<String> {
    let models = files("models", "pml");
    assert!(models.len() >= 5, "where are the models?");
    models.iter().flat_map(|(_, text)| tags_in(text)).collect()
}

/// The names of all functions in `src/raw`, and the files that they are in.
fn functions() -> BTreeMap<String, BTreeSet<String>> {
    let mut functions = BTreeMap::<_, BTreeSet<_>>::new();
    for (file, code) in files("src/raw", "rs") {
        let lines = code.lines().map(str::trim_start);
        for line in lines.filter(|line| !line.starts_with("//")) {
            for name in between(line, "fn ", '(')
                .into_iter()
                .chain(between(line, "fn ", '<'))
            {
                functions.entry(name).or_default().insert(file.clone());
            }
        }
    }
    functions
}

#[test]
fn every_tag_of_the_models_names_a_function() {
    let functions = functions();
    let known = |tag: &String| functions.contains_key(tag);
    let unknown: Vec<_> = tags().into_iter().filter(|t| !known(t)).collect();
    assert!(
        unknown.is_empty(),
        "models/ stands for functions that src/raw does not have: {unknown:?}"
    );
}

#[test]
fn every_modelled_function_has_a_tag() {
    let models = files("models", "pml");
    let handshake = models.iter().filter(|(name, _)| name != "sharing.pml");
    let tags: BTreeSet<_> = handshake.flat_map(|(_, text)| tags_in(text)).collect();
    let functions = functions();
    for name in MODELLED {
        assert!(
            functions.contains_key(*name),
            "src/raw has no `{name}` any more"
        );
        assert!(tags.contains(*name), "the handshake has no [{name}]");
    }
}

#[test]
fn the_table_has_exactly_the_tags() {
    let readme = read("models/README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `["));
    let listed: BTreeSet<_> = rows.flat_map(|row| between(row, "`[", ']')).collect();
    assert_eq!(listed, tags(), "left: models/README.md, right: models/");
}

#[test]
fn the_table_names_the_files() {
    let (readme, functions) = (read("models/README.md"), functions());
    let rows = readme.lines().filter(|line| line.starts_with("| `["));
    let mut wrong = Vec::new();
    for row in rows {
        let files = row.split('|').nth(2).unwrap_or_default();
        let names = between(row, "`[", ']');
        let there = |name: &String| {
            let files = files.split(',').map(str::trim);
            let found = functions.get(name);
            found.is_some_and(|found| files.into_iter().all(|file| found.contains(file)))
        };
        wrong.extend(names.into_iter().filter(|name| !there(name)));
    }
    assert!(
        wrong.is_empty(),
        "models/README.md: in another file: {wrong:?}"
    );
}
