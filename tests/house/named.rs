//! What SAFETY.md names: tests, models, mutants, scripts.

use std::collections::BTreeMap;

/// What there is.
pub(crate) struct There<'a> {
    /// The crate's sources and tests.
    pub(crate) sources: BTreeMap<String, String>,
    /// scripts/mutant-models.
    pub(crate) models: String,
    pub(crate) scripts: BTreeMap<String, String>,
    pub(crate) is_file: &'a dyn Fn(&str) -> bool,
}

/// Everything in backquotes in a table of `safety` that is neither a test, nor a model, nor a mutant with its
/// model, nor a seeded bug of a script, nor a file.
pub(crate) fn missing(safety: &str, there: &There<'_>) -> Vec<String> {
    let rows = safety.lines().filter(|line| line.starts_with('|'));
    let mut complaints = Vec::new();
    let mut named = 0;
    for row in rows {
        for name in row.split('`').skip(1).step_by(2) {
            named += 1;
            if !is_there(name, there) {
                complaints.push(format!("`{name}` is no test, no mutant and no file"));
            }
        }
    }
    if named == 0 {
        complaints.push("no table names anything".to_owned());
    }
    complaints
}

fn is_there(name: &str, there: &There<'_>) -> bool {
    let word = name.rsplit("::").next().unwrap_or(name);
    let is_test = || {
        let function = format!("fn {word}()");
        there.sources.values().any(|text| text.contains(&function))
    };
    let is_mutant = || {
        let mut rows = there.models.lines().map(str::split_whitespace);
        rows.any(|mut row| row.next() == Some(name))
    };
    let is_seeded = || {
        let is_name = name
            .chars()
            .all(|c| c.is_uppercase() || c == '_' || c.is_numeric());
        is_name && there.scripts.values().any(|text| text.contains(name))
    };
    (there.is_file)(name) || is_test() || is_mutant() || is_seeded()
}

#[test]
fn name_of_nothing_is_found() {
    let there = There {
        sources: BTreeMap::from([("tests/a.rs".into(), "fn i01_there() {}".into())]),
        models: "heavy_missing  i01_there\n".into(),
        scripts: BTreeMap::from([("scripts/spin.sh".into(), "row SEEDED".into())]),
        is_file: &|path| path == "scripts/spin.sh",
    };
    let table = "| I1 | `a::i01_there` | `heavy_missing` | `SEEDED` | `scripts/spin.sh` |\n";
    assert_eq!(missing(table, &there), Vec::<String>::new());
    let table = "| I1 | `i01_gone` | `light_missing` | `UNSEEDED` | `scripts/gone.sh` |\n";
    assert_eq!(missing(table, &there).len(), 4);
    assert_eq!(missing("nothing", &there).len(), 1);
}
