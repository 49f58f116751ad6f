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
//!   piece, a pool up to 16 TiB. Opening a pool reads and verifies all of it.
//! - The index is in memory. One process writes a pool, or several read it; that is by `flock`, so
//!   only those are kept out who ask.
//! - What readers hold is not free, and a pool can be full of that; it says then who they are.
//! - An I/O error on a page of the mapping, or another process that truncates the file, is a SIGBUS, as
//!   with every memory mapping.
//! - A damaged record keeps its pages until its key is put or deleted again.
//!
//! # Exit status
//!
//! 0: done. 1: an error, or `check` or the demo found something wrong. 2: wrong usage. 3: there is no
//! such key. 130: interrupted, and ended in order.

mod bench;
mod demo;
mod report;
mod store;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::{Args, Parser, Subcommand, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};
use tempfile::TempDir;

use crate::bench::Mix;
use crate::demo::{Demo, Doomed};
use crate::report::{bytes, chain, findings, key, parse_bytes};
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::MAX_VALUE;
use crate::store::media::{FileMedia, Media, PmemMedia, VolatileMedia};
use crate::store::transfer::{Device, Transfers};
use crate::store::{Access, Store};

/// The pool file of every command but `demo`, unless `--pool` names another.
const POOL: &str = "pmem_kv.pool";

/// A small key-value store in a memory-mapped pool file, whose every free goes through
/// `break_layouts`: readers get values in place, and what they hold is not freed, moved or cut off.
///
/// Without a command it runs the demo.
#[derive(Debug, Parser)]
#[command(name = "pmem_kv", version, after_help = AFTER_HELP)]
struct Cli {
    /// The pool file [default: pmem_kv.pool; the demo: a temporary one]
    #[arg(long, global = true, value_name = "PATH")]
    pool: Option<PathBuf>,

    /// How stores become durable
    #[arg(long, global = true, value_enum, default_value_t = Kind::Auto)]
    media: Kind,

    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Keys have 1 to 1024 bytes, values up to 256 MiB.
Exit status: 0 done; 1 an error, or something wrong was found; 2 wrong usage; 3 no such key;
130 interrupted, and ended in order.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// `pmem` on a file system with DAX, `volatile` on one that is in memory, else `file`
    Auto,
    /// A file on a file system with DAX: MAP_SYNC, and cache lines written back by the processor
    Pmem,
    /// An ordinary file: fdatasync
    File,
    /// No flushing: survives the end of the process, not of the machine
    Volatile,
}

impl Kind {
    /// `None`: the file system decides.
    fn media(self) -> Result<Option<Box<dyn Media>>, StoreError> {
        Ok(match self {
            Kind::Auto => None,
            Kind::Pmem => Some(Box::new(PmemMedia::new().ok_or(StoreError::NoWriteBack)?)),
            Kind::File => Some(Box::new(FileMedia)),
            Kind::Volatile => Some(Box::new(VolatileMedia)),
        })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set the value of a key; makes the pool if there is none
    Put {
        /// 1 to 1024 bytes
        key: OsString,
        /// The file to read the value from [default: standard input]
        file: Option<PathBuf>,
        /// The size a new pool may grow to, in bytes, or with K, M, G, T
        #[arg(long, value_parser = parse_bytes, default_value = "1G")]
        capacity: u64,
    },
    /// Write the value of a key to standard output
    Get {
        /// The key, as it was put
        key: OsString,
        /// Write it to this file instead
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Remove a key
    Del {
        /// The key, as it was put
        key: OsString,
    },
    /// List the keys that start with a prefix, in order
    Scan {
        /// What the keys start with [default: all of them]
        #[arg(hide_default_value = true, default_value = "")]
        prefix: OsString,
        /// Also the length of the value and the pages of the record
        #[arg(long, short)]
        long: bool,
    },
    /// Move records to the front of the file and cut its end off
    Compact {
        /// Only move what fits into the holes; do not close holes that are too small
        #[arg(long)]
        fit: bool,
    },
    /// Write the value of a key to a file, by a device that reads the pool's pages themselves
    Export {
        /// The key, as it was put
        key: OsString,
        /// Made, or overwritten
        file: PathBuf,
        /// What moves the bytes
        #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
        device: DeviceKind,
    },
    /// Set the value of a key to what a file holds, by a device that writes the pool's pages themselves
    Import {
        /// Read with O_DIRECT, where its file system lets one
        file: PathBuf,
        /// 1 to 1024 bytes
        key: OsString,
        /// What moves the bytes
        #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
        device: DeviceKind,
    },
    /// Show the numbers of a pool
    Stat,
    /// Verify every record of a pool, without changing a byte; say what is wrong and where
    Check,
    /// Measure a new, temporary pool: how many operations a second, and how long each takes
    Bench(BenchArgs),
    /// Load real files, then read, overwrite, delete, compact and verify, all at the same time
    Demo(DemoArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceKind {
    /// io_uring, or else `threads`; which, is said
    Auto,
    /// io_uring, or an error
    Uring,
    /// pwrite and pread
    Threads,
}

impl From<DeviceKind> for Device {
    fn from(kind: DeviceKind) -> Device {
        match kind {
            DeviceKind::Auto => Device::Any,
            DeviceKind::Uring => Device::Uring,
            DeviceKind::Threads => Device::Thread,
        }
    }
}

#[derive(Args, Clone, Debug)]
struct BenchArgs {
    /// What to do, and how often: read, overwrite, delete, export, each with a weight
    #[arg(long, default_value = "read=80,overwrite=17,delete=2,export=1")]
    mix: Mix,
    /// Bytes of a value, one measurement each, or with K, M
    #[arg(long, value_delimiter = ',', value_parser = value_bytes, default_value = "100,4K,64K,1M")]
    values: Vec<u64>,
    /// How many threads do it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// What exports
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    device: DeviceKind,
    /// One JSON object a line, instead of the table
    #[arg(long)]
    json: bool,
}

fn value_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        size @ 1..=MAX_VALUE => Ok(size),
        _ => Err(format!("expected 1 to {MAX_VALUE} bytes")),
    }
}

#[derive(Args, Clone, Debug)]
struct DemoArgs {
    /// The directory tree to load [default: the checkout this was built from, or the current one]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How long to run after loading; up to 30 more if there has not been some of everything by then
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Threads that read and verify
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    readers: u64,
    /// Threads that overwrite, delete and put again
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    writers: u64,
    /// What exports and imports
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    device: DeviceKind,
    /// Where the exported files go [default: a temporary folder next to the pool]
    #[arg(long)]
    exports: Option<PathBuf>,
    /// The same without the protection: breaks find nobody to wait for. Counts what comes out wrong
    #[arg(long)]
    without_lease: bool,
    /// What `--without-lease` runs: a process that may die of it
    #[arg(long, hide = true)]
    doomed: Option<Doomed>,
}

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
    let open = |access| -> Result<Store, Failure> {
        let store = Store::open(&path, access, media()?)?;
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
                    Store::create(&path, capacity, media()?)?
                }
                store => store?,
            };
            let replaced = store.put(name.as_encoded_bytes(), &value)?;
            eprintln!(
                "{} {} ({} bytes), media: {}",
                if replaced { "replaced" } else { "put" },
                key(name.as_encoded_bytes()),
                value.len(),
                store.stat()?.media
            );
        }
        Command::Get { key: name, output } => {
            let store = open(Access::Read)?;
            let Some(value) = store.get(name.as_encoded_bytes())? else {
                return no_such_key(&name);
            };
            match output {
                Some(file) => fs::write(&file, &*value).map_err(at(&file))?,
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
