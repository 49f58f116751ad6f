//! Reading source text: what is code, what is comment, what is a test.

use std::collections::{BTreeMap, BTreeSet};

/// The file of the map and the floors that a source file belongs to: itself, but a folder's private files are
/// one with the file that the folder is named after.
pub(crate) fn unit(path: &str) -> Option<String> {
    let name = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["lib"] | [_, "mod"] => None,
        _ if parts.contains(&"tests") => None,
        ["maps", file, ..] => Some(format!("maps/{file}")),
        ["raw", file] => Some(format!("raw/{file}")),
        ["docs", file] => Some(format!("docs/{file}")),
        [file, ..] => Some((*file).to_owned()),
        [] => None,
    }
}

/// All units of these files.
pub(crate) fn units(files: &BTreeMap<String, String>) -> BTreeSet<String> {
    files.keys().filter_map(|path| unit(path)).collect()
}

/// The code: without comments and without the test module at the end. Keeps the lines.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().copied().unwrap_or("");
        if line.starts_with("#[cfg(") && line.contains("test") && next.starts_with("mod tests {") {
            break;
        }
        code.push_str(line.split("//").next().unwrap_or(""));
        code.push('\n');
    }
    code
}

/// Every path that begins with `crate::`, those in braces one by one.
pub(crate) fn imports(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let (path, behind) = rest.split_at(end);
        let mut parts: Vec<String> = path
            .split("::")
            .filter(|p| !p.is_empty())
            .map(String::from)
            .collect();
        if let Some(list) = behind.strip_prefix('{') {
            let list = &list[..list.find('}').unwrap_or(list.len())];
            for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
                let first = item.split([' ', ':']).next().unwrap_or(item);
                let mut whole = parts.clone();
                whole.push(first.to_owned());
                found.push(whole);
            }
        } else {
            parts.truncate(4);
            found.push(parts);
        }
    }
    found
}

#[test]
fn a_unit_is_a_file_or_a_folder_of_private_files() {
    assert_eq!(unit("src/raw/gate.rs").as_deref(), Some("raw/gate"));
    assert_eq!(unit("src/sync/model.rs").as_deref(), Some("sync"));
    assert_eq!(unit("src/maps/file/error.rs").as_deref(), Some("maps/file"));
    assert_eq!(unit("src/maps/extent/tests.rs"), None);
    assert_eq!(unit("src/maps/extent/tests/proofs.rs"), None);
    assert_eq!(unit("src/raw/mod.rs"), None);
    assert_eq!(unit("src/lib.rs"), None);
}

#[test]
fn code_has_neither_comments_nor_tests() {
    let text =
        "use a; // b\n/// c\nfn d() {}\n#[cfg(all(test, not(x)))]\nmod tests {\n use e;\n}\n";
    assert_eq!(code(text), "use a; \n\nfn d() {}\n");
}

#[test]
fn imports_are_taken_apart() {
    let paths = |code| {
        let found = imports(code).into_iter().map(|p| p.join("::"));
        found.collect::<Vec<_>>()
    };
    assert_eq!(
        paths("use crate::raw::told::{self, Waiting}; $crate::raw::wait::poll(x)"),
        ["raw::told::self", "raw::told::Waiting", "raw::wait::poll"]
    );
    assert_eq!(paths("use crate::PageRange;"), ["PageRange"]);
}
