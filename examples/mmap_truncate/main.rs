//! `mmap_truncate`: a file that is mapped into memory is truncated and punched under its own readers,
//! without a SIGBUS, and without a reader ever seeing zeroes or stale bytes.
//!
//! ```text
//! cargo run --release --example mmap_truncate                with the lease: nothing may go wrong
//! cargo run --release --example mmap_truncate -- --no-lease  without: in a child process, for it will die
//! ```
//!
//! One thread cuts the file, grows it again, punches holes, and writes new contents where the old ones
//! were. Others read through the mapping, on every page. Every word of a page carries a stamp: which page
//! it is and of which generation; a reader looks up, under its pin, which generation the page should have.
//!
//! `--no-lease` is the same program with the same timing, except that the readers take their pins at
//! another guard, so that no break waits for them.
//!
//! # Exit status
//!
//! 0: nothing went wrong. 1: a reader got wrong bytes, or died. 2: wrong usage, an error, or a run that shows
//! nothing, since no break had to wait or some page was never read. 3: it hung.

mod mapping;

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, exit};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use layout_lease::maps::{FileBlocks, FileError};
use layout_lease::{Drained, LayoutGuard, OpError, PagePin, PageRange};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::mapping::{Mapping, PAGE};

const PAGES: usize = 64;

/// A hang is a failure: how long after its time the program may still run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Truncates and punches a mapped file under its own readers: no SIGBUS, no zeroes, no stale bytes.
#[derive(Clone, Debug, Parser)]
#[command(name = "mmap_truncate", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Threads that read
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    readers: u64,
    /// The folder for the file, which decides the file system [default: the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The same without breaks that wait, in a child process: see how it dies
    #[arg(long)]
    no_lease: bool,
    /// The child of `--no-lease`
    #[arg(long, hide = true)]
    child: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong; 1 a reader got wrong bytes, or died of SIGBUS;
2 wrong usage, an error, or nothing was shown; 3 it hung.";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the readers and the remover share.
struct Scene {
    guard: LayoutGuard<FileBlocks>,
    /// Where the pins of `--no-lease` go: nobody ever breaks this one.
    elsewhere: Option<LayoutGuard<()>>,
    mapping: Mapping,
    /// The generation of each page; 0: it is a hole, or behind the end.
    generations: Vec<AtomicU64>,
    over: AtomicBool,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    /// Of each page.
    reads: Vec<AtomicU64>,
    refused: AtomicU64,
    zeroes: AtomicU64,
    stale: AtomicU64,
}

/// What the remover counts.
#[derive(Default)]
struct Removals {
    truncates: u64,
    punches: u64,
    waited: u64,
    holders: u64,
    longest: Duration,
    lacks_punch: bool,
}

/// The word at every place of a page.
fn stamp(page: usize, generation: u64) -> u64 {
    0xfeed_0000_0000_0000 | (generation << 8) | page as u64
}

impl Scene {
    fn new(file: File, lease: bool) -> Outcome<Scene> {
        let counters = |n| (0..n).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        file.set_len((PAGES * PAGE) as u64)?;
        let mapping = Mapping::new(&file, PAGES)?;
        Ok(Scene {
            guard: LayoutGuard::new(FileBlocks::in_place(file, PAGE as u64)?),
            elsewhere: (!lease).then(LayoutGuard::default),
            mapping,
            generations: counters(PAGES),
            over: AtomicBool::new(false),
            tally: Tally {
                reads: counters(PAGES),
                ..Tally::default()
            },
        })
    }

    /// A reader's pin.
    fn pin(&self, pages: PageRange) -> Option<PagePin> {
        match &self.elsewhere {
            None => self.guard.try_pin(pages).ok(),
            Some(elsewhere) => elsewhere.try_pin(pages).ok(),
        }
    }

    // ------------------------------------------------------------------------------------- reading

    fn read(&self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        while !self.over.load(Ordering::Relaxed) {
            let start = random.random_range(0..PAGES);
            let end = (start + random.random_range(1..=8)).min(PAGES);
            let Some(pin) = range(start, end).and_then(|pages| self.pin(pages)) else {
                // Being broken. Whoever has to have just these pages would wait: `pin(..).wait()`.
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            for page in start..end {
                // Asked under the pin: from here on the page stays what it is.
                let generation = self.generations[page].load(Ordering::Acquire);
                if generation != 0 {
                    self.check(page, generation);
                }
            }
            drop(pin);
        }
    }

    fn check(&self, page: usize, generation: u64) {
        let expected = stamp(page, generation);
        let mut wrong = None;
        for word in self.mapping.page(page) {
            let word = word.load(Ordering::Relaxed);
            if word != expected {
                wrong = Some(word);
            }
        }
        self.tally.reads[page].fetch_add(1, Ordering::Relaxed);
        let Some(word) = wrong else { return };
        let (kind, name) = match word {
            0 => (&self.tally.zeroes, "zeroes"),
            _ => (&self.tally.stale, "wrong bytes"),
        };
        if kind.fetch_add(1, Ordering::Relaxed) == 0 {
            println!("a reader got {name}: page {page}, found {word:#x}, expected {expected:#x}");
        }
    }

    // ------------------------------------------------------------------------------------ removing

    fn remove(&self, until: Instant) -> Outcome<Removals> {
        let mut random = SmallRng::from_os_rng();
        let mut removals = Removals::default();
        let mut generation = 1;
        self.write(0, PAGES, generation)?;
        while Instant::now() < until {
            generation += 1;
            let start = random.random_range(0..PAGES);
            if removals.lacks_punch || random.random_bool(0.5) {
                self.free(start, PAGES, &mut removals, |proof| {
                    proof.truncate(start as u64)
                })?;
                removals.truncates += 1;
                // Behind the end nobody has a pin, and the new pages are holes.
                self.guard.truncate(PAGES as u64).wait()?;
                self.write(start, PAGES, generation)?;
            } else {
                let end = (start + random.random_range(1..=16)).min(PAGES);
                let Some(pages) = range(start, end) else {
                    continue;
                };
                let punch = |proof: &Drained<'_, FileBlocks>| proof.punch_hole(pages);
                match self.free(start, end, &mut removals, punch) {
                    Err(e) if e.is::<Lacking>() => removals.lacks_punch = true,
                    other => {
                        other?;
                        removals.punches += 1;
                    }
                }
                self.write(start, end, generation)?;
            }
        }
        Ok(removals)
    }

    /// Breaks the pages, and then does `work`: nobody reads them any more, nobody can yet.
    fn free(
        &self,
        start: usize,
        end: usize,
        removals: &mut Removals,
        work: impl FnOnce(&Drained<'_, FileBlocks>) -> Result<u64, OpError<FileError>>,
    ) -> Outcome<()> {
        let began = Instant::now();
        let breaking = match end {
            PAGES => self.guard.break_layouts(start as u64..),
            _ => self.guard.break_layouts(start as u64..end as u64),
        };
        let holders = breaking.holders().len() as u64;
        let proof = breaking.wait()?;
        if holders > 0 {
            removals.waited += 1;
            removals.holders += holders;
            removals.longest = removals.longest.max(began.elapsed());
        }
        for generation in &self.generations[start..end] {
            generation.store(0, Ordering::Relaxed);
        }
        match work(&proof) {
            Ok(_) => Ok(()),
            Err(OpError::Unsupported) => Err(Lacking.into()),
            Err(e) => Err(e.into()),
        }
    }

    /// New contents for pages that have none, and then the word that they are there.
    fn write(&self, start: usize, end: usize, generation: u64) -> Outcome<()> {
        for page in start..end {
            let bytes = stamp(page, generation).to_ne_bytes().repeat(PAGE / 8);
            let file = self.guard.map().file();
            file.write_all_at(&bytes, (page * PAGE) as u64)?;
            self.generations[page].store(generation, Ordering::Release);
        }
        Ok(())
    }
}

/// The file system cannot punch holes.
#[derive(Debug, thiserror::Error)]
#[error("the file system cannot punch holes")]
struct Lacking;

fn range(start: usize, end: usize) -> Option<PageRange> {
    PageRange::new(start as u64, end as u64).ok()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = if args.no_lease && !args.child {
        control(&args)
    } else {
        run(&args)
    };
    done.unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::from(2)
    })
}

fn run(args: &Args) -> Outcome<ExitCode> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let file = tempfile::tempfile_in(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let scene = Scene::new(file, !args.no_lease)?;
    let time = Duration::from_secs(args.seconds);
    let (done, ended) = mpsc::channel::<()>();
    let removals = thread::scope(|s| {
        let scene = &scene;
        s.spawn(move || watch(scene, ended, time + PATIENCE));
        for reader in 0..args.readers {
            s.spawn(move || scene.read(reader));
        }
        let removals = scene.remove(Instant::now() + time);
        scene.over.store(true, Ordering::Relaxed);
        drop(done);
        removals
    })?;
    Ok(report(&scene, &removals, args))
}

/// Ends the process if it hangs, and says who holds what.
fn watch(scene: &Scene, ended: mpsc::Receiver<()>, patience: Duration) {
    if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        eprintln!("it hangs: no end after {patience:?}");
        for holder in scene.guard.holders(..) {
            eprintln!("  {holder}");
        }
        exit(3);
    }
}

fn report(scene: &Scene, removals: &Removals, args: &Args) -> ExitCode {
    let Tally {
        reads,
        refused,
        zeroes,
        stale,
    } = &scene.tally;
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let pages: Vec<u64> = reads.iter().map(count).collect();
    let (all, fewest) = (pages.iter().sum::<u64>(), pages.iter().min().copied());
    let wrong = count(zeroes) + count(stale);
    let row = |name: &str, value: &dyn std::fmt::Display| println!("  {name:<34}{value:>14}");
    println!(
        "{PAGES} mapped pages on {}, {} reader(s), {} s, {}:",
        scene.guard.map().file_system(),
        args.readers,
        args.seconds,
        if args.no_lease {
            "WITHOUT the lease"
        } else {
            "with the lease"
        },
    );
    row("pages read and compared", &all);
    row("  of the page read least", &fewest.unwrap_or(0));
    row("pins refused during a break", &count(refused));
    row("truncated and grown again", &removals.truncates);
    if removals.lacks_punch {
        row("punched (the file system cannot)", &0);
    } else {
        row("punched and written again", &removals.punches);
    }
    row("breaks that waited for readers", &removals.waited);
    row("  for pins, in all", &removals.holders);
    row("  longest wait", &format!("{:.1?}", removals.longest));
    row("pages read as zeroes", &count(zeroes));
    row("pages read with other wrong bytes", &count(stale));
    row("SIGBUS", &0);
    if wrong > 0 {
        println!("FAILED: {wrong} page(s) were not what they should be");
        return ExitCode::from(1);
    }
    if !args.no_lease && (removals.waited == 0 || fewest == Some(0)) {
        println!(
            "NOTHING SHOWN: no break had to wait, or a page was never read: run it for longer"
        );
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// Runs the same without a lease in a child process, since that is expected to die.
fn control(args: &Args) -> Outcome<ExitCode> {
    // It dies by plan: no core file.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["--no-lease", "--child"]);
    child.args(["--seconds", &args.seconds.to_string()]);
    child.args(["--readers", &args.readers.to_string()]);
    if let Some(dir) = &args.dir {
        child.arg("--dir").arg(dir);
    }
    let began = Instant::now();
    let status = child.status()?;
    let after = began.elapsed();
    Ok(match (status.signal(), status.code()) {
        (Some(signal), _) if signal == rustix::process::Signal::BUS.as_raw() => {
            println!("without the lease: the child died of SIGBUS after {after:.1?}");
            ExitCode::from(1)
        }
        (Some(signal), _) => return Err(format!("the child died of signal {signal}").into()),
        (None, Some(1)) => {
            println!("without the lease: no SIGBUS, but wrong bytes");
            ExitCode::from(1)
        }
        (None, Some(0)) => {
            println!("without the lease: it got away with it this time");
            ExitCode::SUCCESS
        }
        (None, code) => return Err(format!("the child ended with {code:?}").into()),
    })
}
