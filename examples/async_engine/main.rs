//! `async_engine`: a storage engine on tokio, whose tasks are cancelled while their I/O is in flight.
//!
//! ```text
//! cargo run --release --example async_engine                  no byte may go astray
//! cargo run --release --example async_engine -- --pin-in-task the pin goes with the task, not with the I/O
//! ```
//!
//! Tasks pin pages, look up their blocks, and `.await` reads and writes of a file; they are cancelled at
//! random. That does not stop the I/O, which runs elsewhere: so the pin is moved into the operation, and is
//! dropped where *that* ends. Scans hold leases, hear when these are recalled, and keep what nobody wants.
//!
//! Meanwhile compactors break ranges, with `tokio::time::timeout` around the break: when the time is up,
//! they ask who the holders are, and then either drop the break, which opens the range again, or go on
//! awaiting it: it has kept its place, and the range has stayed closed. With the proof in hand they move the
//! pages to other blocks, and give those that are free to somebody else, who stamps them and looks later
//! whether the stamps are still there.
//!
//! The library needs no runtime: `tests/executors.rs` does the like without tokio.
//!
//! # Exit status
//!
//! 0: nothing went wrong. 1: bytes went astray. 2: wrong usage, an error, or a run that shows nothing. 3: it
//! hung.

mod engine;
mod tasks;

use std::error::Error;
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Parser;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::engine::{COMPACTORS, Engine};

/// Scans at any time.
const SCANS: u64 = 2;

/// A hang is a failure: how long after its time the program may still run.
const PATIENCE: Duration = Duration::from_secs(300);

/// A storage engine on tokio whose tasks are cancelled at random while a compactor moves their pages:
/// counts the bytes that reach a block after it was freed.
#[derive(Clone, Debug, Parser)]
#[command(name = "async_engine", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The folder for the file, which decides the file system [default: the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A mistake to watch: the task has the pin, and not its I/O
    #[arg(long)]
    pin_in_task: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong; 1 bytes went astray; 2 wrong usage, an error, or nothing was shown;
3 it hung.";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

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
    let engine = Engine::new(&dir, args.pin_in_task);
    let engine = engine.map_err(|e| format!("{}: {e}", dir.display()))?;
    println!(
        "tasks that are cancelled, and compactors that time out, for {} s, {}",
        args.seconds,
        if args.pin_in_task {
            "with the pins in the TASKS"
        } else {
            "with the pins in the operations"
        },
    );
    if !engine.direct {
        println!("note: {} has no direct reads and writes", dir.display());
    }
    let time = Duration::from_secs(args.seconds);
    let (done, ended) = mpsc::channel::<()>();
    let watched = Arc::clone(&engine);
    let watch = thread::spawn(move || watch(&watched, &ended, time + PATIENCE));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_time()
        .build()?;
    let ran = runtime.block_on(drive(&engine, time));
    let wrong = ran.and_then(|()| engine.check_all());
    drop(done);
    watch.join().map_err(|_| "the watchdog panicked")?;
    Ok(report(&engine, wrong?))
}

async fn drive(engine: &Arc<Engine>, time: Duration) -> Outcome<()> {
    let mut random = SmallRng::from_os_rng();
    let mut tasks = JoinSet::new();
    let mut fork = || SmallRng::from_rng(&mut random);
    tasks.spawn(tasks::clients(Arc::clone(engine), fork()));
    for n in 0..SCANS {
        tasks.spawn(tasks::scans(Arc::clone(engine), fork(), n));
    }
    for n in 0..COMPACTORS {
        tasks.spawn(tasks::compact(Arc::clone(engine), fork(), n));
    }
    let over = async {
        tokio::time::sleep(time).await;
        engine.over.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Outcome::Ok(())
    };
    tokio::select! {
        () = over => {}
        failed = all => failed?,
    }
    // Nobody is left but the I/O of those who were cancelled.
    engine.guard.close().await;
    Ok(())
}

/// Ends the process if it hangs, and says who holds what.
fn watch(engine: &Engine, ended: &mpsc::Receiver<()>, patience: Duration) {
    if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
        eprintln!("it hangs: no end after {patience:?}");
        for holder in engine.guard.holders(..) {
            eprintln!("  {holder}");
        }
        exit(3);
    }
}

fn report(engine: &Engine, in_file: u64) -> ExitCode {
    let counts = &engine.counts;
    let n = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let shown = [
        ("reads", n(&counts.reads)),
        ("writes", n(&counts.writes)),
        (
            "tasks cancelled",
            n(&counts.cancelled_pinning) + n(&counts.cancelled_in_io),
        ),
        ("  while they waited to pin", n(&counts.cancelled_pinning)),
        ("  while they awaited I/O", n(&counts.cancelled_in_io)),
        ("I/O that outlived its task", n(&counts.outlived)),
        ("breaks", n(&counts.breaks)),
        ("  holders in their way", n(&counts.holders)),
        ("  that timed out", n(&counts.timeouts)),
        ("  and were awaited again", n(&counts.kept)),
        ("  and were given up", n(&counts.given_up)),
        ("leases recalled", n(&counts.recalled)),
        ("  that kept a part", n(&counts.shrunk)),
        ("pages moved", n(&counts.moved)),
    ];
    let astray = [
        ("bytes misread", n(&counts.misread)),
        ("bytes hit after the break", n(&counts.hit)),
        ("bytes wrong in the file", in_file),
    ];
    for (name, number) in shown.iter().chain(&astray) {
        println!("{name:<28} {number:>12}");
    }
    let stats = engine.guard.stats();
    if let (Some(p50), Some(max)) = (stats.wait_p50, stats.wait_max) {
        println!("breaks waited for {p50:.1?} (median), {max:.1?} (longest)");
    }
    let bytes: u64 = astray.iter().map(|(_, number)| number).sum();
    if bytes > 0 {
        println!("FAILED: {bytes} bytes went astray");
        return ExitCode::from(1);
    }
    if let Some((name, _)) = shown.iter().find(|(_, number)| *number == 0) {
        println!("NOTHING SHOWN: {}: none: run it for longer", name.trim());
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}
