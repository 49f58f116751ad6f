//! The command line: what there is to say, and what `--help` says about it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::Mix;
use crate::demo::Doomed;
use crate::report::parse_bytes;
use crate::store::error::StoreError;
use crate::store::format::MAX_VALUE;
use crate::store::media::{FileMedia, Media, PmemMedia, VolatileMedia};
use crate::store::transfer::Device;

/// A small key-value store in a memory-mapped pool file, whose every free goes through
/// `break_layouts`: readers get values in place, and what they hold is not freed, moved or cut off.
///
/// Without a command it runs the demo.
#[derive(Debug, Parser)]
#[command(name = "pmem_kv", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// The pool file [default: pmem_kv.pool; the demo: a temporary one]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) pool: Option<PathBuf>,

    /// How stores become durable
    #[arg(long, global = true, value_enum, default_value_t = Kind::Auto)]
    pub(crate) media: Kind,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const AFTER_HELP: &str = "\
Keys have 1 to 1024 bytes, values up to 256 MiB.
Exit status: 0 done; 1 an error, or something wrong was found; 2 wrong usage; 3 no such key;
130 interrupted, and ended in order.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
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
    pub(crate) fn media(self) -> Result<Option<Box<dyn Media>>, StoreError> {
        Ok(match self {
            Kind::Auto => None,
            Kind::Pmem => Some(Box::new(PmemMedia::new().ok_or(StoreError::NoWriteBack)?)),
            Kind::File => Some(Box::new(FileMedia::default())),
            Kind::Volatile => Some(Box::new(VolatileMedia)),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
pub(crate) enum DeviceKind {
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
pub(crate) struct BenchArgs {
    /// What to do, and how often: read, overwrite, delete, export, each with a weight
    #[arg(long, default_value = "read=80,overwrite=17,delete=2,export=1")]
    pub(crate) mix: Mix,
    /// Bytes of a value, one measurement each, or with K, M
    #[arg(long, value_delimiter = ',', value_parser = value_bytes, default_value = "100,1K,4K,64K,1M")]
    pub(crate) values: Vec<u64>,
    /// How many threads do it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) threads: u64,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// What exports
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    pub(crate) device: DeviceKind,
    /// So many replaced values stay held meanwhile, as by readers that do not let go
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub(crate) hold: u64,
    /// One JSON object a line, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

fn value_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        size @ 1..=MAX_VALUE => Ok(size),
        _ => Err(format!("expected 1 to {MAX_VALUE} bytes")),
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// The directory tree to load [default: the checkout this was built from, or the current one]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// How long to run after loading; with breaks, up to 30 more if there has not been some of everything by then
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Threads that read and verify
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) readers: u64,
    /// Threads that overwrite, delete and put again
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) writers: u64,
    /// What exports and imports
    #[arg(long, value_enum, default_value_t = DeviceKind::Auto)]
    pub(crate) device: DeviceKind,
    /// Where the exported files go [default: a temporary folder next to the pool]
    #[arg(long)]
    pub(crate) exports: Option<PathBuf>,
    /// The same without the protection: breaks find nobody to wait for. Counts what comes out wrong
    #[arg(long)]
    pub(crate) without_lease: bool,
    /// What `--without-lease` runs: a process that may die of it
    #[arg(long, hide = true)]
    pub(crate) doomed: Option<Doomed>,
}
