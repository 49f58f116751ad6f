//! What documents name: tests, models, mutants, scripts, numbers.

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

/// Weakened orderings that `page` names and `models` has no model for.
pub(crate) fn gone(page: &str, models: &str) -> Vec<String> {
    let words = page.split('`').skip(1).step_by(2);
    let weakened = words.filter(|word| word.ends_with("_relaxed"));
    weakened
        .filter(|word| !is_mutant(word, models))
        .map(|word| format!("`{word}` is no mutant"))
        .collect()
}

fn is_mutant(name: &str, models: &str) -> bool {
    let mut rows = models.lines().map(str::split_whitespace);
    rows.any(|mut row| row.next() == Some(name))
}

/// The numbers for a recorder that `source` has and `guide` does not name.
pub(crate) fn untold(source: &str, guide: &str) -> Vec<String> {
    let names = source.split('"').filter(|s| s.starts_with("layout_lease_"));
    let names: Vec<_> = names.collect();
    let mut complaints: Vec<_> = names
        .iter()
        .filter(|name| !guide.contains(&format!("`{name}`")))
        .map(|name| format!("{name} is not in the guide"))
        .collect();
    if names.is_empty() {
        complaints.push("the source has no numbers".to_owned());
    }
    complaints
}

fn is_there(name: &str, there: &There<'_>) -> bool {
    let word = name.rsplit("::").next().unwrap_or(name);
    let is_test = || {
        let function = format!("fn {word}()");
        there.sources.values().any(|text| text.contains(&function))
    };
    let is_seeded = || {
        let is_name = name
            .chars()
            .all(|c| c.is_uppercase() || c == '_' || c.is_numeric());
        is_name && there.scripts.values().any(|text| text.contains(name))
    };
    (there.is_file)(name) || is_test() || is_mutant(name, &there.models) || is_seeded()
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

#[test]
fn a_mutant_that_is_gone_and_a_number_that_is_not_told_are_found() {
    let models = "look_relaxed  i07_there\n";
    assert!(gone("`look_relaxed`, `look_first`, skip_relaxed", models).is_empty());
    assert_eq!(
        gone("by `look_relaxed` and `skip_relaxed`", models).len(),
        1
    );
    let source = "counter!(\"layout_lease_a_total\") counter!(\"layout_lease_b_total\")";
    assert_eq!(untold(source, "| `layout_lease_a_total` |").len(), 1);
    assert_eq!(untold("", "").len(), 1);
}
