//! What the types forbid, in pairs: each file of `tests/compile` is compiled twice, and differs by the lines below
//! `#[cfg(wrong)]`. With them it must not compile, for the reason that its first line names; without them it must,
//! so that nothing else can be the reason.
//!
//! It is the compiler that is called, not cargo: the crate is there, and each file takes a fraction of a second.
#![cfg(not(any(lease_loom, lease_shuttle)))]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library that this very test is linked with, as cargo names it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(find_library)
}

fn find_library() -> PathBuf {
    let test = env::current_exe().expect("where am I?");
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "test",
        "--no-run",
        "--quiet",
        "--offline",
        "--test",
        "compile",
    ]);
    cargo.args(["--message-format", "json", "--target-dir"]);
    cargo.arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let names = output.split('"');
    let mut libraries = names.filter(|name| {
        let file = Path::new(name).file_name().and_then(|f| f.to_str());
        file.is_some_and(|f| f.starts_with("liblayout_lease-") && f.ends_with(".rlib"))
    });
    let library = libraries.next();
    library.expect("cargo names no library").into()
}

/// What the compiler says about `file`, if it says anything.
fn complaint(file: &Path, library: &Path, flags: &[&str]) -> Option<String> {
    // A folder of its own: a compiler that is root would put a file in place of /dev/null.
    let folder = tempfile::tempdir().unwrap();
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args([
        "--edition",
        "2024",
        "--crate-type",
        "lib",
        "--emit",
        "metadata",
    ]);
    rustc.args(["--check-cfg", "cfg(wrong)", "-D", "warnings"]);
    rustc
        .args(["-A", "dead_code", "--out-dir"])
        .arg(folder.path())
        .args(flags);
    rustc.arg("--extern");
    rustc.arg(format!("layout_lease={}", library.display()));
    rustc.arg("-L").arg(library.parent().unwrap());
    let output = rustc.arg(file).output().expect("no compiler");
    let text = String::from_utf8(output.stderr).unwrap();
    (!output.status.success()).then_some(text)
}

/// Compiles the file `name` both ways.
#[track_caller]
fn pair(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile");
    let file = folder.join(name).with_extension("rs");
    let text = fs::read_to_string(&file).unwrap();
    let reason = text.lines().next().and_then(|l| l.strip_prefix("// "));
    let reason = reason.expect("its first line is the reason");
    let library = library();

    let right = complaint(&file, library, &[]);
    assert!(right.is_none(), "{name} must compile: {}", right.unwrap());
    let wrong = complaint(&file, library, &["--cfg", "wrong"]);
    let wrong = wrong.unwrap_or_else(|| panic!("{name} must not compile: {reason}"));
    // Lints that are denied have no number.
    let is_error = |l: &&str| l.starts_with("error") && !l.starts_with("error: aborting");
    let errors: Vec<_> = wrong.lines().filter(is_error).collect();
    assert!(
        errors.len() == 1 && errors[0].starts_with(reason),
        "{name}: not {reason} alone, but {wrong}"
    );
}

#[test]
fn every_file_is_compiled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile");
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_owned();
        let call = format!("pair({name:?})");
        assert!(
            include_str!("compile.rs").contains(&call),
            "{call} is missing"
        );
    }
}

#[test]
fn alter_a_proof() {
    pair("alter_a_proof");
}

#[test]
fn break_with_a_pin_that_is_gone() {
    pair("break_with_a_pin_that_is_gone");
}

#[test]
fn clone_a_pin() {
    pair("clone_a_pin");
}

#[test]
fn clone_a_proof() {
    pair("clone_a_proof");
}

#[test]
fn copy_a_token() {
    pair("copy_a_token");
}

#[test]
fn forge_a_pin() {
    pair("forge_a_pin");
}

#[test]
fn forge_a_proof() {
    pair("forge_a_proof");
}

#[test]
fn free_under_a_foreign_kind_of_proof() {
    pair("free_under_a_foreign_kind_of_proof");
}

#[test]
fn free_with_a_shared_proof_of_several() {
    pair("free_with_a_shared_proof_of_several");
}

#[test]
fn free_without_a_map() {
    pair("free_without_a_map");
}

#[test]
fn free_without_a_proof() {
    pair("free_without_a_proof");
}

#[test]
fn free_without_any_proof() {
    pair("free_without_any_proof");
}

#[test]
fn keep_a_break_beyond_its_guard() {
    pair("keep_a_break_beyond_its_guard");
}

#[test]
fn keep_a_proof_beyond_its_guard() {
    pair("keep_a_proof_beyond_its_guard");
}

#[test]
fn lose_the_number_of_a_token() {
    pair("lose_the_number_of_a_token");
}

#[test]
fn send_a_proof_of_a_map_for_one_thread() {
    pair("send_a_proof_of_a_map_for_one_thread");
}

#[test]
fn share_a_map_for_one_thread() {
    pair("share_a_map_for_one_thread");
}

#[test]
fn take_a_timeout_for_success() {
    pair("take_a_timeout_for_success");
}

#[test]
fn use_a_pin_after_its_token() {
    pair("use_a_pin_after_its_token");
}

#[test]
fn use_a_proof_after_its_end() {
    pair("use_a_proof_after_its_end");
}
