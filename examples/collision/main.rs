//! `collision`: DMA against the freeing of blocks, in user space: the twin of `generic/503`, the test of
//! the file systems' own tests that was written for this race in ext4.
//!
//! ```text
//! cargo run --release --example collision                with the lease: no byte may go astray
//! cargo run --release --example collision -- --no-lease  without: see how easily it happens
//! cargo run --release --example collision -- --lose-one  a pin that never goes: a hang, and whose
//! ```
//!
//! For each of the five operations two threads run for a second. One reads a file into pages of a mapping,
//! with io_uring and O_DIRECT: the device writes to the blocks behind those pages. The other applies the
//! operation to all of the pages, and gives their blocks to somebody else, who stamps them with a generation
//! and later looks whether the stamps are still there. Random sleeps let the two drift, as in `generic/503`.
//!
//! The block map is [`ExtentMap`], and the blocks are recycled inside one file: this is what no kernel
//! protects. (Blocks that the *file system* frees it does protect, or tries to.) The arena has just as many
//! blocks as there are pages, so that each one that is freed is used again at once.
//!
//! `generic/503` itself never looks at the data, and its source file is only allocated, not written, so that
//! its reads pin nothing. So here the source is written, all data is compared, and a run in which no break
//! had to wait for a pin is a failure, too.
//!
//! `--no-lease` is the same program with the same timing, except that the device takes its pins at another
//! guard, so that no break waits for them.
//!
//! # Exit status
//!
//! 0: nothing went wrong. 1: bytes went astray. 2: wrong usage, an error, or a run that shows nothing. 3: it
//! hung.

mod arena;
mod device;
mod remover;

use std::error::Error;
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use layout_lease::maps::ExtentMap;
use layout_lease::{Holder, LayoutGuard, PagePin, PageRange};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::arena::{Arena, BLOCK};
use crate::device::{Reads, Source};
use crate::remover::{Op, Removals};

/// The pages that the device reads into, and the blocks that there are.
const PAGES: u64 = 64;

/// Direct reads into a mapping, against the operations that free its blocks: counts the bytes that reach a
/// block after it was freed.
#[derive(Clone, Debug, Parser)]
#[command(name = "collision", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run each operation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The operations [default: all five]
    #[arg(long, value_enum)]
    op: Vec<Op>,
    /// The folder for the two files, which decides the file system [default: the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The same without breaks that wait
    #[arg(long)]
    no_lease: bool,
    /// A mistake to watch: one completion is lost, and its pin with it; see how that is named
    #[arg(long, conflicts_with = "no_lease")]
    lose_one: bool,
    /// A hang is a failure: how many seconds after its time an operation may still run
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong; 1 bytes went astray; 2 wrong usage, an error, or nothing was shown;
3 it hung.";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the device and the remover share.
struct Scene {
    guard: LayoutGuard<ExtentMap>,
    /// Where the pins of `--no-lease` go: nobody ever breaks this one.
    elsewhere: Option<LayoutGuard<()>>,
    arena: Arc<Arena>,
    source: Arc<Source>,
    /// The next completion is to be lost.
    lose_one: AtomicBool,
    over: AtomicBool,
}

impl Scene {
    /// A pin for the device.
    fn pin(&self, pages: PageRange) -> Option<PagePin> {
        match &self.elsewhere {
            None => self.guard.try_pin(pages).ok(),
            Some(elsewhere) => elsewhere.try_pin(pages).ok(),
        }
    }

    /// The reads in flight, of which a break should wait for each.
    fn in_the_way(&self) -> Vec<Holder> {
        match &self.elsewhere {
            None => self.guard.holders(0..PAGES),
            Some(elsewhere) => elsewhere.holders(0..PAGES),
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Outcome<ExitCode> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let at = |e: std::io::Error| format!("{}: {e}", dir.display());
    let arena = Arc::new(Arena::new(
        &tempfile::tempfile_in(&dir).map_err(at)?,
        PAGES,
    )?);
    let source = Arc::new(Source::new(&dir).map_err(at)?);
    println!(
        "direct reads into {PAGES} mapped pages of {BLOCK} bytes, against what frees their blocks, {} s each, {}",
        args.seconds,
        if args.no_lease {
            "WITHOUT the lease"
        } else {
            "with the lease"
        },
    );
    if !source.direct {
        println!(
            "note: {} has no direct reads: a thread of the kernel copies, instead of a device",
            dir.display()
        );
    }
    println!(
        "{:<9} {:>7} {:>8} {:>8} {:>7} {:>8} {:>9} {:>12} {:>12}",
        "operation",
        "rounds",
        "reads",
        "MiB",
        "breaks",
        "pins",
        "longest",
        "bytes hit",
        "overwritten"
    );
    let ops = match args.op.as_slice() {
        [] => Op::value_variants(),
        some => some,
    };
    let (mut astray, mut idle) = (0, false);
    for &op in ops {
        let scene = Scene {
            guard: LayoutGuard::new(ExtentMap::new(PAGES)),
            elsewhere: args.no_lease.then(LayoutGuard::default),
            arena: Arc::clone(&arena),
            source: Arc::clone(&source),
            lose_one: AtomicBool::new(args.lose_one),
            over: AtomicBool::new(false),
        };
        let (reads, removals) = collide(&scene, op, args)?;
        row(op, &reads, &removals);
        astray += removals.hit + reads.lost;
        idle |= removals.pins == 0 || reads.requests == 0;
    }
    println!(
        "breaks: that found reads in flight; pins: the reads, {}",
        if args.no_lease {
            "which nobody waited for"
        } else {
            "each of which was waited for"
        }
    );
    println!(
        "hit: reached a block after it had been freed; overwritten: by others, under the pin of a read"
    );
    if astray > 0 {
        println!("FAILED: {astray} bytes went astray");
        return Ok(ExitCode::from(1));
    }
    if idle {
        println!("NOTHING SHOWN: no break found a read in flight: run it for longer");
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

/// Two threads, one operation.
fn collide(scene: &Scene, op: Op, args: &Args) -> Outcome<(Reads, Removals)> {
    let time = Duration::from_secs(args.seconds);
    let patience = time + Duration::from_secs(args.patience);
    let mut random = SmallRng::from_os_rng();
    let mut device = SmallRng::from_rng(&mut random);
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|s| {
        s.spawn(move || watch(scene, op, ended, patience));
        // The time begins when both are there.
        let (begin, begun) = mpsc::sync_channel(0);
        let reads = s.spawn(move || {
            begin.send(()).ok();
            device::run(scene, &mut device)
        });
        begun.recv().ok();
        let removals = remover::run(scene, op, Instant::now() + time, &mut random);
        scene.over.store(true, Ordering::Relaxed);
        let reads = reads.join().map_err(|_| "the device's thread panicked")?;
        drop(done);
        Ok((reads?, removals?))
    })
}

/// Ends the process if it hangs, and says who holds what.
fn watch(scene: &Scene, op: Op, ended: mpsc::Receiver<()>, patience: Duration) {
    if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        eprintln!("{op:?} hangs: no end after {patience:?}");
        for holder in scene.guard.holders(..) {
            eprintln!("  {holder}");
        }
        exit(3);
    }
}

fn row(op: Op, reads: &Reads, removals: &Removals) {
    let name = op.to_possible_value();
    println!(
        "{:<9} {:>7} {:>8} {:>8} {:>7} {:>8} {:>9} {:>12} {:>12}",
        name.as_ref().map_or("?", |name| name.get_name()),
        removals.rounds,
        reads.requests,
        reads.bytes >> 20,
        removals.breaks,
        removals.pins,
        format!("{:.1?}", removals.longest),
        removals.hit,
        reads.lost,
    );
}
