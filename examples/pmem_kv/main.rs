//! `pmem_kv`: a small key-value store in a memory-mapped pool file, whose every free goes through
//! `break_layouts`. The main example of the crate `layout-lease`.
//!
//! ```text
//! cargo run --release --example pmem_kv            the demo: real files, readers, writers, a compactor
//! cargo run --release --example pmem_kv -- --help  everything else
//! ```
//!
//! Start reading at [`store`]: its head has the map of the files.
//!
//! # Limits
//!
//! - Keys have 1 to 1,024 bytes, values up to 256 MiB; each record takes whole pages of 4 KiB in one
//!   piece, a pool up to 16 TiB. Opening a pool reads and verifies all of it; for writing, on an ordinary file, it
//!   also writes the directory anew: 2 MiB for each GiB that the pool may grow to.
//! - The index is in memory. One process writes a pool, or several read it; that is by `flock`, so
//!   only those are kept out who ask.
//! - What readers hold is not free, and a pool can be full of that; it says then who they are. Old values
//!   that are held for long make writers slower, not readers: with 0, 100 and 1,000 of them held, half of all
//!   overwrites took less than 12, 23 and 110 to 190 us, half of all reads less than 1.1, 1.3 and 2.4 us (`bench --mix
//!   read=1,overwrite=1 --values 100 --threads 1 --seconds 1 --media volatile --hold N`; 2-core AMD EPYC VM,
//!   Linux 6.18, busy with other things; commit a2f71b6).
//! - An I/O error on a page of the mapping, or another process that truncates the file, is a SIGBUS, as
//!   with every memory mapping.
//! - A damaged record keeps its pages until its key is put or deleted again.
//!
//! # Exit status
//!
//! 0: done. 1: an error, or `check` or the demo found something wrong. 2: wrong usage. 3: there is no
//! such key. 130: interrupted, and ended in order.

mod bench;
mod cli;
mod demo;
mod report;
mod store;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};
use tempfile::TempDir;

use crate::cli::{Cli, Command};
use crate::demo::Demo;
use crate::report::{bytes, chain, findings, key};
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::transfer::Transfers;
use crate::store::{Access, Store};

/// The pool file of every command but `demo`, unless `--pool` names another.
const POOL: &str = "pmem_kv.pool";

/// What `main` ends with.
enum Failure {
    Store(StoreError),
    Io(String, io::Error),
    /// Already said, or nothing to say.
    Exit(u8),
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        Failure::Store(e)
    }
}

fn main() -> ExitCode {
    let failure = match run(Cli::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    match failure {
        Failure::Exit(code) => return code.into(),
        // Whoever reads our output has had enough: `scan | head`.
        Failure::Io(_, e) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Failure::Io(what, e) => eprintln!("error: {what}: {e}"),
        Failure::Store(e) => eprintln!("error: {}", chain(&e)),
    }
    ExitCode::FAILURE
}

/// Whether Ctrl-C was pressed. What takes long looks now and then, and ends in order.
fn interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the first Ctrl-C is a request. The second one ends the process; no harm in that either,
/// since what was acknowledged is on the media, but for temporary files that stay.
fn heed_interrupts() -> io::Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// A temporary folder on the file system of the pool: what is in memory alone would prove less.
fn temporary(pool: Option<&Path>) -> Result<TempDir, Failure> {
    let folder = match pool.and_then(Path::parent) {
        None => tempfile::tempdir(),
        Some(folder) if folder == Path::new("") => tempfile::tempdir_in("."),
        Some(folder) => tempfile::tempdir_in(folder),
    };
    folder.map_err(at(Path::new("a temporary folder")))
}

fn run(cli: Cli) -> Result<(), Failure> {
    let media = || cli.media.media();
    let command = cli.command.unwrap_or_else(|| {
        let alone = Cli::parse_from(["pmem_kv", "demo"]).command;
        alone.expect("`demo` is a command")
    });
    if let Command::Demo(_) | Command::Bench(_) | Command::Compact { .. } = command {
        heed_interrupts().map_err(at(Path::new("signals")))?;
    }
    if let Command::Demo(args) = command {
        if args.without_lease {
            return demo::without_lease(cli.pool.as_deref(), cli.media, &args);
        }
        let demo = Demo {
            pool: cli.pool,
            media: cli.media,
            args,
        };
        return demo.run();
    }
    if let Command::Bench(args) = command {
        return bench::run(cli.pool.as_deref(), cli.media, &args);
    }
    let path = cli.pool.unwrap_or_else(|| POOL.into());
    let in_force = Cell::new(None);
    let open = |access| -> Result<Store, Failure> {
        let store = Store::open(&path, access, media()?)?;
        in_force.set(Some(store.media()));
        for finding in findings(&store) {
            eprintln!("warning: {finding}");
        }
        Ok(store)
    };
    match command {
        Command::Put {
            key: name,
            file,
            capacity,
        } => {
            let value = match file {
                Some(file) => fs::read(&file).map_err(at(&file))?,
                None => {
                    let mut value = Vec::new();
                    let read = io::stdin().read_to_end(&mut value);
                    read.map_err(at(Path::new("standard input")))?;
                    value
                }
            };
            let store = match open(Access::Write) {
                Err(Failure::Store(StoreError::NoPool { .. })) => {
                    let store = Store::create(&path, capacity, media()?)?;
                    in_force.set(Some(store.media()));
                    store
                }
                store => store?,
            };
            let replaced = store.put(name.as_encoded_bytes(), &value)?;
            eprintln!(
                "{} {} ({} bytes)",
                if replaced { "replaced" } else { "put" },
                key(name.as_encoded_bytes()),
                value.len()
            );
        }
        Command::Get { key: name, output } => {
            let store = open(Access::Read)?;
            let Some(value) = store.get(name.as_encoded_bytes())? else {
                return no_such_key(&name);
            };
            match output {
                Some(file) => {
                    let mut options = OpenOptions::new();
                    let to = options.write(true).create(true).truncate(false).open(&file);
                    let mut to = to.map_err(at(&file))?;
                    store.empty(&to, &file)?;
                    to.write_all(&value).map_err(at(&file))?;
                }
                None => out(&value)?,
            }
        }
        Command::Del { key: name } => {
            if !open(Access::Write)?.del(name.as_encoded_bytes())? {
                return no_such_key(&name);
            }
        }
        Command::Scan { prefix, long } => {
            let mut text = String::new();
            for (name, entry) in open(Access::Read)?.scan(prefix.as_encoded_bytes()) {
                if long {
                    let damaged = if entry.damaged { "  DAMAGED" } else { "" };
                    let (len, extent) = (entry.value_len, entry.extent.to_string());
                    text += &format!("{len:>10}  {extent:>15}  {}{damaged}\n", key(&name));
                } else {
                    text += &format!("{}\n", key(&name));
                }
            }
            out(text.as_bytes())?;
        }
        Command::Compact { fit } => {
            let store = open(Access::Write)?;
            let effort = if fit { Effort::Fit } else { Effort::Pack };
            let before = store.stat()?;
            let done = store.compact(effort, || !interrupted())?;
            let after = store.stat()?;
            out(format!(
                "moved {} records ({}); file {} -> {}, allocated {} -> {}\n",
                done.moved,
                bytes(done.bytes),
                bytes(before.usage.file * store::format::PAGE),
                bytes(after.usage.file * store::format::PAGE),
                bytes(before.allocated),
                bytes(after.allocated),
            )
            .as_bytes())?;
            for holder in &done.pinned.holders {
                out(format!("left, being read: {holder}\n").as_bytes())?;
            }
            if interrupted() {
                return Err(Failure::Exit(130));
            }
        }
        Command::Export {
            key: name,
            file,
            device,
        } => {
            let store = open(Access::Read)?;
            let mut transfers = Transfers::new(&store, device.into())?;
            if !transfers.export(0, name.as_encoded_bytes(), &file)? {
                return no_such_key(&name);
            }
            told("exported", &name, &mut transfers)?;
        }
        Command::Import {
            file,
            key: name,
            device,
        } => {
            let store = open(Access::Write)?;
            let mut transfers = Transfers::new(&store, device.into())?;
            transfers.import(0, &file, name.as_encoded_bytes())?;
            told("imported", &name, &mut transfers)?;
        }
        Command::Stat => {
            let table = report::stat(&open(Access::Read)?.stat()?);
            out(table.to_string().as_bytes())?;
            in_force.set(None); // It is in the table.
        }
        Command::Check => {
            let store = Store::open(&path, Access::Read, media()?)?;
            let (stat, findings) = (store.stat()?, findings(&store));
            for finding in &findings {
                out(format!("{finding}\n").as_bytes())?;
            }
            out(format!(
                "{} records with {} of keys and values, media: {}: {}\n",
                stat.records,
                bytes(stat.logical),
                stat.media,
                match findings.len() {
                    0 => "everything is sound".to_owned(),
                    1 => "1 finding".to_owned(),
                    n => format!("{n} findings"),
                }
            )
            .as_bytes())?;
            if !findings.is_empty() {
                return Err(Failure::Exit(1));
            }
        }
        Command::Demo(_) | Command::Bench(_) => unreachable!("it was run above"),
    }
    if let Some(media) = in_force.get() {
        eprintln!("media: {media}");
    }
    Ok(())
}

/// Waits for the one transfer that is under way, and says how it was done.
fn told(what: &str, name: &OsString, transfers: &mut Transfers<'_>) -> Result<(), Failure> {
    if let Some(done) = transfers.next()? {
        let (len, name) = (done.outcome?, key(name.as_encoded_bytes()));
        eprintln!("{what} {name} ({len} bytes), {}", transfers.device());
    }
    Ok(())
}

fn no_such_key(name: &OsString) -> Result<(), Failure> {
    eprintln!("there is no key {}", key(name.as_encoded_bytes()));
    Err(Failure::Exit(3))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| Failure::Io(path, e)
}

fn out(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(at(Path::new("standard output")))
}
