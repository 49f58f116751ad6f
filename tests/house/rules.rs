//! The rules: from texts to complaints.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{code, imports, unit, units};

type Texts = BTreeMap<String, String>;

/// The words in backquotes of a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The map in `front` names every file, and no other.
pub(crate) fn map(front: &str, files: &BTreeSet<String>) -> Vec<String> {
    let table = front
        .lines()
        .skip_while(|line| !line.starts_with("//! # The map"))
        .filter(|line| line.starts_with("//! | "));
    let mut complaints = Vec::new();
    let mut named = BTreeSet::new();
    for row in table {
        let first = row.split('|').nth(1).unwrap_or("");
        for name in quoted(first) {
            if !named.insert(name.to_owned()) {
                complaints.push(format!("{name} is on the map twice"));
            }
        }
    }
    let missing = files.difference(&named);
    complaints.extend(missing.map(|name| format!("{name} is not on the map")));
    let gone = named.difference(files);
    complaints.extend(gone.map(|name| format!("{name} is on the map, and no such file")));
    complaints
}

/// The floors: the text block below the heading, one floor a line, from the top.
fn read_floors(design: &str) -> BTreeMap<String, usize> {
    let block = design
        .lines()
        .skip_while(|line| *line != "## Floors")
        .skip_while(|line| *line != "```text")
        .skip(1)
        .take_while(|line| *line != "```");
    let names = block.enumerate().flat_map(|(floor, line)| {
        let names = line.split([',', ' ']).filter(|n| !n.is_empty());
        names.map(move |name| (name.to_owned(), floor))
    });
    names.collect()
}

/// Every import leads to a lower floor.
pub(crate) fn floors(design: &str, files: &Texts) -> Vec<String> {
    let floors = read_floors(design);
    let known = units(files);
    let mut complaints: Vec<String> = Vec::new();
    let missing = known.iter().filter(|u| !floors.contains_key(*u));
    complaints.extend(missing.map(|unit| format!("{unit} is on no floor")));
    let gone = floors.keys().filter(|u| !known.contains(*u));
    complaints.extend(gone.map(|unit| format!("{unit} is on a floor, and no such file")));
    for (path, text) in files {
        let Some(from) = unit(path) else { continue };
        let code = code(text);
        for import in imports(&code) {
            let two = import.get(..2).map(|p| p.join("/")).unwrap_or_default();
            let to = match import.first() {
                _ if known.contains(&two) => two,
                Some(one) if known.contains(one) => one.clone(),
                _ => {
                    let import = import.join("::");
                    complaints.push(format!(
                        "{path} imports crate::{import} from the front door, not from its file"
                    ));
                    continue;
                }
            };
            if to != from && floors.get(&to) <= floors.get(&from) {
                complaints.push(format!("{from} imports {to}, which is not below it"));
            }
        }
        let alone = path.matches('/').count() <= 1 || path.starts_with("src/raw/");
        if alone && code.contains("use super::") {
            complaints.push(format!("{path} imports from `super`"));
        }
    }
    complaints
}

/// What orders one thread against another comes from `sync` alone.
pub(crate) fn doors(files: &Texts) -> Vec<String> {
    const CRATES: &[&str] = &["parking_lot", "event_listener", "crossbeam_utils", "loom::"];
    const STD: &[&str] = &[
        "sync::atomic",
        "thread_local!",
        "Mutex",
        "RwLock",
        "Condvar",
        "Barrier",
        "mpsc",
        "Once,",
        "park",
    ];
    let mut complaints = Vec::new();
    for (path, text) in files.iter().filter(|(p, _)| !p.starts_with("src/sync")) {
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            continue;
        }
        for line in code(text).lines() {
            let foreign = CRATES.iter().find(|name| line.contains(*name));
            let std = line.contains("std::") || line.contains("core::");
            let std = STD.iter().find(|name| std && line.contains(*name));
            if let Some(name) = foreign.or(std) {
                complaints.push(format!("{path} gets {name} past the door: {}", line.trim()));
            }
        }
    }
    complaints
}

/// Fences, and calls that stand for one, are in the barrier's file alone.
pub(crate) fn fences(files: &Texts) -> Vec<String> {
    const CALLS: &[&str] = &["fence(", "membarrier(", "sched_setaffinity("];
    let mut complaints = Vec::new();
    for (path, text) in files {
        if path == "src/raw/barrier.rs" {
            continue;
        }
        for line in code(text).lines() {
            if let Some(call) = CALLS.iter().find(|call| line.contains(*call)) {
                complaints.push(format!("{path}: {call}): {}", line.trim()));
            }
        }
    }
    complaints
}

/// No text has a mark that says it is not finished, and no test is switched off.
pub(crate) fn unfinished(files: &Texts) -> Vec<String> {
    // In two halves, so that this file passes.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ign", "ore"),
    ];
    // What a document says about the rule is no breach of it.
    find(files, &marks)
}

/// No code block in a document or a comment goes uncompiled.
pub(crate) fn uncompiled(files: &Texts) -> Vec<String> {
    let fence = "```";
    let marks = ["ignore", "rust,ignore", "no_run", "rust,no_run"].map(|m| format!("{fence}{m}"));
    let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
    find(files, &marks)
}

fn find(files: &Texts, marks: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in files {
        for (n, line) in text.lines().enumerate() {
            // A document may name a mark in backquotes.
            let named = |mark: &str| line.contains(&format!("`{mark}"));
            let found = marks
                .iter()
                .find(|m| line.contains(**m) && (m.starts_with('`') || !named(m)));
            if let Some(mark) = found {
                complaints.push(format!("{path}:{}: {mark}", n + 1));
            }
        }
    }
    complaints
}

/// No file has more than 600 lines, but those that `long` names.
pub(crate) fn too_long(files: &Texts, long: &[(&str, &str)]) -> Vec<String> {
    const LINES: usize = 600;
    let excused = |path: &str| long.iter().any(|(p, why)| *p == path && !why.is_empty());
    let mut complaints = Vec::new();
    for (path, text) in files {
        let lines = text.lines().count();
        if lines > LINES && !excused(path) {
            complaints.push(format!("{path} has {lines} lines, and no reason for it"));
        }
    }
    for (path, _) in long {
        let lines = files.get(*path).map_or(0, |text| text.lines().count());
        if lines <= LINES {
            complaints.push(format!("{path} has {lines} lines and needs no excuse"));
        }
    }
    complaints
}

/// Every test target is counted, and has as many tests in its files as it must run.
pub(crate) fn counts(counts: &str, files: &Texts, elsewhere: &[(&str, &str)]) -> Vec<String> {
    let wanted: BTreeMap<&str, usize> = counts
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(target, n)| Some((target, n.trim().parse().ok()?)))
        .collect();
    let mut complaints = Vec::new();
    let targets = files
        .keys()
        .filter(|p| p.matches('/').count() == 1 && p.starts_with("tests/"));
    for target in targets {
        let folder = format!("{}/", target.trim_end_matches(".rs"));
        let own = files
            .iter()
            .filter(|(p, _)| *p == target || p.starts_with(&folder));
        let tests: usize = own
            .map(|(_, text)| text.lines().filter(|l| l.trim() == "#[test]").count())
            .sum();
        match wanted.get(target.as_str()) {
            None if elsewhere.iter().any(|(p, _)| target.starts_with(p)) => {}
            None => complaints.push(format!("{target} is counted by nobody")),
            Some(0) => complaints.push(format!("{target} may lose all its tests")),
            Some(n) if tests < *n => {
                complaints.push(format!("{target} has {tests} tests, and must have {n}"));
            }
            Some(_) => {}
        }
    }
    for target in wanted.keys().filter(|t| t.starts_with("tests/")) {
        if !files.contains_key(*target) {
            complaints.push(format!("{target} is counted, and no such file"));
        }
    }
    complaints
}

/// The promises are numbered without a gap, each has tests that are named after it, and none is cited that
/// there is not.
pub(crate) fn promises(list: &str, files: &Texts) -> Vec<String> {
    let numbers: Vec<u32> = list
        .lines()
        .filter_map(|line| line.strip_prefix("- **I"))
        .filter_map(|rest| rest.split([' ', '.', '*']).next()?.parse().ok())
        .collect();
    let mut complaints = Vec::new();
    for (expected, number) in (1..).zip(&numbers) {
        if *number != expected {
            complaints.push(format!("I{expected} is missing or out of order"));
        }
    }
    for number in &numbers {
        let prefix = format!("fn i{number:02}_");
        if !files.values().any(|text| text.contains(&prefix)) {
            complaints.push(format!("I{number} has no test"));
        }
    }
    for (path, text) in files {
        for cited in citations(text) {
            if !numbers.contains(&cited) {
                complaints.push(format!("{path} cites I{cited}, which is no promise"));
            }
        }
    }
    complaints
}

/// The numbers in `(I3, I5)`, `(I3)` and `**I3**`.
fn citations(text: &str) -> Vec<u32> {
    let comments = text.lines().filter_map(|line| line.split_once("//"));
    let mut found = Vec::new();
    for (_, comment) in comments {
        for word in comment.split(|c: char| !c.is_alphanumeric()) {
            let number: Option<u32> = word.strip_prefix('I').and_then(|n| n.parse().ok());
            found.extend(number);
        }
    }
    found
}

/// Every relative link of a document leads to a file that there is.
pub(crate) fn links(files: &Texts, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in files {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in targets(text) {
            let plain = target.split('#').next().unwrap_or("");
            let outside = target.contains("://") || target.starts_with("mailto:");
            if outside || plain.is_empty() {
                continue;
            }
            if !is_there(&joined(folder, plain)) {
                complaints.push(format!("{path} links to {target}, which is not there"));
            }
        }
    }
    complaints
}

/// What the links and images of a document name, those by reference too; code blocks have none. A name with
/// `::` in it, or with no dot at all, is an item of the crate: rustdoc looks after those.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            found.extend(part.split(')').next().map(String::from));
        }
        if let Some((_, target)) = line
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        {
            found.push(target.trim().to_owned());
        }
        for attribute in ["src=\"", "srcset=\"", "href=\""] {
            for part in line.split(attribute).skip(1) {
                found.extend(part.split('"').next().map(String::from));
            }
        }
    }
    found.retain(|t| !t.contains("::") && (t.contains('.') || t.contains('/') || t.contains('#')));
    found
}

/// `path` as seen from `folder`.
fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod bites {
    use super::*;

    fn one(path: &str, text: &str) -> Texts {
        BTreeMap::from([(path.to_owned(), text.to_owned())])
    }

    fn two(a: (&str, &str), b: (&str, &str)) -> Texts {
        let mut texts = one(a.0, a.1);
        texts.insert(b.0.to_owned(), b.1.to_owned());
        texts
    }

    #[track_caller]
    fn says(complaints: Vec<String>, wanted: &[&str]) {
        assert_eq!(complaints.len(), wanted.len(), "{complaints:?}");
        for (complaint, part) in complaints.iter().zip(wanted) {
            assert!(complaint.contains(part), "{complaint:?} has no {part:?}");
        }
    }

    #[test]
    fn map_that_lacks_a_file_or_has_one_too_many() {
        let front =
            "//! # The map\n//! | file | what |\n//! | `pin`, `gone` | pins |\n//! | `pin` | |\n";
        let files = BTreeSet::from(["pin".to_owned(), "new".to_owned()]);
        says(
            map(front, &files),
            &["pin is on the map twice", "new is not", "gone is on"],
        );
        says(map("//! # The map\n//! | `pin` `new` | |", &files), &[]);
    }

    #[test]
    fn floors_that_are_climbed() {
        let design = "## Floors\n\n```text\npin\nraw/gate, raw/slots\nraw/gone\n```\n";
        let texts = two(
            (
                "src/raw/gate.rs",
                "use crate::pin::PagePin;\nuse crate::raw::slots::Slot;\n",
            ),
            (
                "src/raw/slots.rs",
                "// use crate::pin::X;\n#[cfg(test)]\nmod tests {\n use crate::pin::X;\n}\n",
            ),
        );
        let mut all = texts.clone();
        all.insert(
            "src/pin.rs".into(),
            "use crate::raw::gate::Gate;\nuse crate::PageRange;\n".into(),
        );
        all.insert("src/new.rs".into(), "use super::x;\n".into());
        says(
            floors(design, &all),
            &[
                "new is on no floor",
                "raw/gone is on a floor",
                "src/new.rs imports from `super`",
                "src/pin.rs imports crate::PageRange from the front door",
                "raw/gate imports pin",
                "raw/gate imports raw/slots",
            ],
        );
    }

    #[test]
    fn doors_that_are_passed_by() {
        for bad in [
            "use std::sync::atomic::AtomicU64;",
            "use std::sync::{Arc, Mutex};",
            "use parking_lot::RwLock;",
            "std::thread_local! {}",
            "std::thread::park();",
        ] {
            says(
                doors(&one("src/raw/gate.rs", bad)),
                &["src/raw/gate.rs gets"],
            );
        }
        says(doors(&one("src/sync.rs", "use parking_lot::Mutex;")), &[]);
        for test in [
            "src/maps/extent/tests.rs",
            "src/maps/extent/tests/proofs.rs",
        ] {
            says(doors(&one(test, "use std::sync::mpsc;")), &[]);
        }
        says(
            doors(&one(
                "src/pin.rs",
                "use std::sync::Arc;\nuse crate::sync::Mutex;",
            )),
            &[],
        );
    }

    #[test]
    fn fence_outside_of_its_file() {
        says(
            fences(&one("src/pin.rs", "fence(Ordering::SeqCst);")),
            &["src/pin.rs"],
        );
        says(
            fences(&one("src/raw/gate.rs", "compiler_fence(SeqCst);")),
            &["src/raw/gate.rs"],
        );
        says(fences(&one("src/raw/barrier.rs", "fence(SeqCst);")), &[]);
        says(
            fences(&one("src/sync.rs", "use std::sync::atomic::{fence};")),
            &[],
        );
    }

    #[test]
    fn marks_of_unfinished_work() {
        let mark = concat!("// TO", "DO: later");
        says(unfinished(&one("a.rs", mark)), &["a.rs:1"]);
        let off = concat!("#[test]\n#[ign", "ore = \"slow\"]");
        says(unfinished(&one("a.rs", off)), &["a.rs:2"]);
    }

    #[test]
    fn examples_that_nobody_compiles() {
        let fence = "```";
        for how in ["ignore", "rust,ignore", "no_run"] {
            let text = format!("/// {fence}{how}\n/// {fence}");
            says(uncompiled(&one("a.rs", &text)), &["a.rs:1"]);
        }
        says(
            uncompiled(&one("a.rs", &format!("/// {fence}\n/// {fence}text"))),
            &[],
        );
    }

    #[test]
    fn file_that_is_too_long() {
        let long = "\n".repeat(601);
        says(too_long(&one("a.rs", &long), &[]), &["a.rs has 601"]);
        says(too_long(&one("a.rs", &long), &[("a.rs", "because")]), &[]);
        says(
            too_long(&one("a.rs", &long), &[("a.rs", "")]),
            &["no reason"],
        );
        says(
            too_long(&one("a.rs", "\n"), &[("a.rs", "because")]),
            &["needs no excuse"],
        );
    }

    #[test]
    fn target_that_has_lost_its_tests() {
        let texts = two(
            ("tests/a.rs", "#[test]\nfn x() {}\n"),
            ("tests/a/more.rs", "    #[test]\n    fn y() {}\n"),
        );
        says(counts("tests/a.rs  2\n", &texts, &[]), &[]);
        says(
            counts("tests/a.rs  3\n", &texts, &[]),
            &["has 2 tests, and must have 3"],
        );
        says(counts("tests/a.rs  0\n", &texts, &[]), &["may lose all"]);
        says(counts("# none\n", &texts, &[]), &["counted by nobody"]);
        says(counts("# none\n", &texts, &[("tests/a", "there")]), &[]);
        says(
            counts("tests/a.rs 1\ntests/b.rs 1\n", &texts, &[]),
            &["no such file"],
        );
    }

    #[test]
    fn promise_without_a_test_and_citation_of_none() {
        let list = "- **I1 One.**\n- **I2 Two**, and\n- **I4 Four.**\n";
        let texts = one("a.rs", "fn i01_x() {} // (I1, I2)\nfn i02_x() {} // (I9)\n");
        says(
            promises(list, &texts),
            &["I3 is missing", "I4 has no test", "a.rs cites I9"],
        );
    }

    #[test]
    fn link_to_nowhere() {
        let text = "[a](../x.md#part) ![b](y.svg) [c](https://d) [e]\n\n[e]: z.md\n[f](#g)\n[h](crate::I)\n";
        let there = |path: &str| path == "x.md" || path == "docs/y.svg";
        says(
            links(&one("docs/d.md", text), there),
            &["docs/d.md links to z.md"],
        );
        says(
            links(&one("docs/d.md", "<img src=\"q.svg\">"), there),
            &["q.svg"],
        );
    }
}
