//! Public items and their examples.

use std::collections::{BTreeMap, BTreeSet};

/// A public item: where it is, what it is called, its documentation.
struct Item {
    path: String,
    name: String,
    doc: String,
}

/// Every public item whose documentation has neither a code block, nor a line below `# Examples` that links to an
/// item which has one.
pub(crate) fn without_example(files: &BTreeMap<String, String>) -> Vec<String> {
    let items: Vec<Item> = files
        .iter()
        .filter(|(path, _)| !path.starts_with("src/raw/") && !path.starts_with("src/sync"))
        .flat_map(|(path, text)| public(path, text))
        .collect();
    let shown: BTreeSet<&str> = items
        .iter()
        .filter(|item| item.doc.contains("```"))
        .map(|item| item.name.as_str())
        .collect();
    let complaints = items.iter().filter_map(|item| {
        if shown.contains(item.name.as_str()) && item.doc.contains("```") {
            return None;
        }
        let Some((_, examples)) = item.doc.split_once("# Examples") else {
            return Some(format!("{}: {} has no example", item.path, item.name));
        };
        let linked = examples.split("[`").skip(1);
        let mut names = linked.filter_map(|rest| rest.split('`').next());
        let leads = names.any(|name| shown.contains(name.rsplit("::").next().unwrap_or(name)));
        let complaint = || format!("{}: {} links to no example", item.path, item.name);
        (!leads).then(complaint)
    });
    complaints.collect()
}

/// The public functions, types, traits and constants of a file. What is behind a private module is left to the
/// reader: nothing in `src` but what is meant to be reached is `pub` without a restriction.
fn public(path: &str, text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut doc = String::new();
    let (mut in_attribute, mut hidden) = (false, false);
    let mut in_trait = false;
    let mut in_sealed = false;
    for line in text.lines() {
        let code = line.trim_start();
        if line.starts_with("mod sealed") {
            in_sealed = true;
        }
        if line == "}" {
            (in_trait, in_sealed) = (false, false);
        }
        if let Some(text) = code.strip_prefix("///") {
            doc.push_str(text.trim_start());
            doc.push('\n');
            continue;
        }
        if code.starts_with("#[") {
            hidden |= code.starts_with("#[doc(hidden)]");
            in_attribute = !code.ends_with(']');
            continue;
        }
        if in_attribute {
            in_attribute = !code.ends_with(']');
            continue;
        }
        if code.starts_with("pub trait ") {
            in_trait = true;
        }
        let declared = match code.strip_prefix("pub ") {
            Some(rest) => Some(rest),
            None if in_trait && code.starts_with("fn ") => Some(code),
            None => None,
        };
        let words = ["const fn ", "fn ", "struct ", "enum ", "trait ", "const "];
        let name = declared.and_then(|rest| {
            let rest = words.iter().find_map(|word| rest.strip_prefix(word))?;
            rest.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .next()
        });
        if let Some(name) = name.filter(|_| !in_sealed && !hidden) {
            items.push(Item {
                path: path.to_owned(),
                name: name.to_owned(),
                doc: std::mem::take(&mut doc),
            });
        }
        doc.clear();
        hidden = false;
    }
    items
}

#[test]
fn item_without_an_example_is_found() {
    let text = "\
/// Shown.
///
/// ```
/// x();
/// ```
#[must_use]
pub struct Shown;

impl Shown {
    /// Bare.
    pub fn bare(&self) {}

    /// # Examples
    ///
    /// See [`Shown`].
    pub const fn linked() {}

    /// # Examples
    ///
    /// See [`bare`](Self::bare).
    pub fn astray() {}

    /// Hidden.
    #[doc(hidden)]
    pub fn hidden() {}

    /// Bare, too.
    #[expect(
        x,
        reason = \"y\"
    )]
    pub fn long() {}

    fn private() {}

    pub(crate) fn ours() {}
}

pub trait T {
    /// Nothing.
    fn method(&self);
}
";
    let files = BTreeMap::from([("src/a.rs".to_owned(), text.to_owned())]);
    let complaints = without_example(&files);
    let names = [
        "bare has no",
        "astray links to no",
        "long has no",
        "T has no",
        "method has no",
    ];
    assert_eq!(complaints.len(), names.len(), "{complaints:?}");
    for (complaint, name) in complaints.iter().zip(names) {
        assert!(complaint.contains(name), "{complaint}");
    }
}
