//! Runs an example as a program, from the outside.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

/// The example, as its source is now: `cargo test --test NAME` alone builds no examples.
fn program(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock();
    let test = env::current_exe().expect("where am I?");
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--example", name]);
    cargo.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(built.unwrap().success(), "{name} cannot be built");
    profile.join("examples").join(name)
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) text: String,
}

impl Run {
    /// Runs the example `name`.
    pub(crate) fn of(name: &str, args: &[&str]) -> Run {
        let output = Command::new(program(name)).args(args).output();
        let Output {
            status,
            stdout,
            stderr,
        } = output.expect("cannot start the example");
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        println!("{name} {args:?}: {status}\n{text}");
        Run {
            status: status.code(),
            text,
        }
    }

    /// The number in the last column of the row that begins with `name`.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        let row = self
            .text
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let row = row.unwrap_or_else(|| panic!("there is no row {name:?}"));
        let last = row.split_whitespace().next_back().unwrap();
        last.parse()
            .unwrap_or_else(|_| panic!("no number in {row:?}"))
    }
}

/// Folders on different file systems, as far as there are any.
pub(crate) fn folders() -> Vec<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    let usable = tempfile::tempfile_in(&memory).is_ok();
    [Some(env::temp_dir()), usable.then_some(memory)]
        .into_iter()
        .flatten()
        .collect()
}
