//! `segment_store`: a log-structured store on one plain file. Readers are in the middle of records whose segment is
//! compacted, punched out, and appended to again.
//!
//! ```text
//! cargo run --release --example segment_store                with the lease: no byte may be wrong
//! cargo run --release --example segment_store -- --no-lease  without: records turn into others under their readers
//! ```
//!
//! It is written as a user of the crate would write it: a guard over [`FileBlocks`](layout_lease::maps::FileBlocks),
//! a [view](store::View) that carries its pin, and a compactor. `--no-lease` is the same program with the same
//! timing, except that the readers take their pins at another guard, so that no break waits for them.
//!
//! # Exit status
//!
//! 0: nothing went wrong. 1: a byte was wrong. 2: wrong usage, an error, or a run that shows nothing, since no
//! break had to wait.

mod record;
mod store;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::record::HEAD;
use crate::store::{Outcome, Store, View};

/// Readers, a writer and a compactor on one file: nobody reads a byte that is not its own.
#[derive(Debug, Parser)]
#[command(name = "segment_store", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Threads that read
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=64))]
    readers: u64,
    /// Keys, whose newest records are alive
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=200))]
    keys: u64,
    /// The folder for the file, which decides the file system [default: the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The same without breaks that wait: see which bytes go wrong
    #[arg(long)]
    no_lease: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong; 1 a byte was wrong; 2 wrong usage, an error, or nothing was shown.";

/// In bytes, with its header.
const LONGEST: u64 = 12 * 1024;

#[derive(Debug, Default)]
struct Tally {
    read: AtomicU64,
    bytes: AtomicU64,
    moved: AtomicU64,
    wrong: AtomicU64,
    written: AtomicU64,
    turns: AtomicU64,
    copied: AtomicU64,
    freed: AtomicU64,
    waited: AtomicU64,
    cut: AtomicU64,
}

fn read(store: &Store, keys: u64, seed: u64, over: &AtomicBool, tally: &Tally) -> Outcome<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    while !over.load(Relaxed) {
        let key = random.random_range(0..keys);
        let Some((view, moved)) = store.get(key)? else {
            continue;
        };
        tally.moved.fetch_add(moved, Relaxed);
        check(&view, key, tally)?;
    }
    Ok(())
}

/// Takes the record piece by piece, as a slow client does, and looks at every byte.
fn check(view: &View<'_>, key: u64, tally: &Tally) -> Outcome<()> {
    let (len, version) = (view.place.len, view.place.version);
    let mut piece = [0; 512];
    let mut wrong = false;
    for offset in (0..len).step_by(piece.len()) {
        let bytes = &mut piece[..(len - offset).min(512) as usize];
        match view.read_at(bytes, offset) {
            Ok(()) => {
                let expected = (offset..).map(|at| record::byte(key, version, len, at));
                wrong |= !bytes.iter().copied().eq(expected.take(bytes.len()));
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => wrong = true,
            Err(e) => return Err(e.into()),
        }
        thread::yield_now();
    }
    tally.read.fetch_add(1, Relaxed);
    tally.bytes.fetch_add(len, Relaxed);
    if wrong && tally.wrong.fetch_add(1, Relaxed) == 0 {
        println!("a reader got wrong bytes: key {key}, {:?}", view.place);
    }
    Ok(())
}

fn write(store: &Store, keys: u64, tally: &Tally) -> Outcome<()> {
    let mut random = SmallRng::from_os_rng();
    for version in 1.. {
        let key = random.random_range(0..keys);
        if !store.put(key, version, random.random_range(HEAD..=LONGEST))? {
            break;
        }
        tally.written.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn compact(store: &Store, tally: &Tally) -> Outcome<()> {
    while let Some(turn) = store.compact()? {
        tally.turns.fetch_add(1, Relaxed);
        tally.copied.fetch_add(turn.copied, Relaxed);
        tally.freed.fetch_add(turn.freed, Relaxed);
        tally.waited.fetch_add(u64::from(turn.holders > 0), Relaxed);
        tally.cut.fetch_add(turn.cut, Relaxed);
    }
    Ok(())
}

fn run(args: &Args) -> Outcome<ExitCode> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let file = tempfile::tempfile_in(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let store = Store::new(file, !args.no_lease)?;
    let (over, tally) = (AtomicBool::new(false), Tally::default());
    let end = Instant::now() + Duration::from_secs(args.seconds);
    // Whoever ends first, ends it for all: the time, or an error.
    let done = |outcome: Outcome<()>| {
        over.store(true, Relaxed);
        store.stop();
        outcome
    };
    thread::scope(|s| {
        let (store, over, tally, done) = (&store, &over, &tally, &done);
        let mut threads = vec![
            s.spawn(move || done(write(store, args.keys, tally))),
            s.spawn(move || done(compact(store, tally))),
        ];
        for seed in 0..args.readers {
            threads.push(s.spawn(move || done(read(store, args.keys, seed, over, tally))));
        }
        while Instant::now() < end && !over.load(Relaxed) {
            thread::park_timeout(end.saturating_duration_since(Instant::now()).min(TICK));
        }
        done(Ok(()))?;
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    report(args, &store, &tally)
}

/// How soon an error in a thread ends the run.
const TICK: Duration = Duration::from_millis(50);

fn report(args: &Args, store: &Store, tally: &Tally) -> Outcome<ExitCode> {
    let lease = if args.no_lease { "WITHOUT" } else { "with" };
    println!(
        "segments on {}, {} reader(s), {} s, {lease} the lease:",
        store.file_system(),
        args.readers,
        args.seconds,
    );
    let count = |name: &str, value: &AtomicU64| {
        let value = value.load(Relaxed);
        println!("  {name:<34}{value:>14}");
        value
    };
    count("records read and compared", &tally.read);
    count("  bytes of them", &tally.bytes);
    count("  that moved before they were read", &tally.moved);
    count("records appended", &tally.written);
    count("segments compacted", &tally.turns);
    count("  records copied", &tally.copied);
    count("  pages freed", &tally.freed);
    let waited = count("  breaks that waited for readers", &tally.waited);
    count("segments cut off the file", &tally.cut);
    let wrong = count("records with a wrong byte", &tally.wrong);
    // What the log has, whatever the readers saw.
    if record::scan(store.file())? != store.index() {
        println!(
            "FAILED: read again from its beginning, the file has other records than the index"
        );
        return Ok(ExitCode::from(1));
    }
    if wrong > 0 {
        println!("FAILED: {wrong} record(s) were not what they should be");
        return Ok(ExitCode::from(1));
    }
    if !args.no_lease && waited == 0 {
        println!("NOTHING SHOWN: no break had to wait: run it for longer");
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::from(2)
    })
}
