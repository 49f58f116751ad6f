//! `uring_pool`: a pool of registered buffers for io_uring, which shrinks and grows under load.
//!
//! ```text
//! cargo run --release --example uring_pool                    no byte may go astray
//! cargo run --release --example uring_pool -- --pin-in-handle the pin goes with the client, not the request
//! cargo run --release --example uring_pool -- --no-lease      nobody is waited for at all
//! ```
//!
//! Every buffer is registered with the ring while it is leased ([`LayoutLease`](layout_lease::LayoutLease)).
//! Every request pins its buffer's pages, and the pin travels in its `user_data`
//! ([`PinToken`](layout_lease::PinToken)): so it is the *completion* that unpins, and neither a client that
//! goes away nor one that cancels. Requests are direct reads and writes of a file, and reads of messages
//! that may never come.
//!
//! Another thread takes parts of the pool away ([`break_layouts`](LayoutGuard::break_layouts)). That recalls
//! the leases; the ring's thread cancels what is in flight there (`IORING_OP_ASYNC_CANCEL`), deregisters the
//! buffers and gives the leases back. A request that was cancelled is still in flight, so the break goes on
//! waiting for its pin. Then the memory is used for something else for a while, is given back to the
//! system, and reopened: the pool leases and registers it again.
//!
//! The blocks of the file, the messages and the memory that was taken away are all stamped, so that a buffer
//! that is used again under a request in flight is seen, whichever way the bytes go.
//!
//! # Exit status
//!
//! 0: nothing went wrong. 1: bytes went astray. 2: wrong usage, an error (io_uring is refused, for one), or a
//! run that shows nothing. 3: it hung.

mod load;
mod pool;
mod resizer;
mod ring;

use std::cell::RefCell;
use std::error::Error;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use layout_lease::{LayoutGuard, PagePin, PageRange};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::load::{Load, Traffic};
use crate::pool::{Bell, Counts, Pool, life};
use crate::resizer::Resizes;
use crate::ring::{Memory, PAGES, Ring};

/// A hang is a failure: how long after its time the program may still run.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool of registered io_uring buffers that shrinks and grows under load: counts the bytes that reach a
/// buffer after it was taken away.
#[derive(Clone, Debug, Parser)]
#[command(name = "uring_pool", version, after_help = AFTER_HELP)]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Buffers in the pool, of 16 KiB each; each has at most one request in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    buffers: u16,
    /// The folder for the file, which decides the file system [default: the one for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A mistake to watch: the client's handle has the pin, and not the request
    #[arg(long, conflicts_with = "no_lease")]
    pin_in_handle: bool,
    /// A mistake to watch: no break waits for anybody
    #[arg(long)]
    no_lease: bool,
}

const AFTER_HELP: &str = "\
Exit status: 0 nothing went wrong; 1 bytes went astray; 2 wrong usage, an error (io_uring is refused, for
one), or nothing was shown; 3 it hung.";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Right,
    PinInHandle,
    NoLease,
}

/// What the ring's thread and the resizer share.
struct Scene {
    mode: Mode,
    guard: LayoutGuard<()>,
    /// Where holds go that nobody is to wait for: nobody ever breaks this one.
    elsewhere: LayoutGuard<()>,
    buffers: usize,
    memory: Arc<Memory>,
    /// The buffers whose request has been cancelled or dropped by its client.
    abandoned: Vec<AtomicBool>,
    bell: Arc<Bell>,
    over: AtomicBool,
}

impl Scene {
    /// The guard of the leases.
    fn leases(&self) -> &LayoutGuard<()> {
        match self.mode {
            Mode::NoLease => &self.elsewhere,
            _ => &self.guard,
        }
    }

    /// The pin that the request carries, and the one that the handle has. `None`: the pages are being broken.
    fn pins(&self, n: usize) -> Option<(PagePin, Option<PagePin>)> {
        let pages = pages_of(n);
        Some(match self.mode {
            Mode::Right => (self.guard.try_pin(pages).ok()?, None),
            Mode::PinInHandle => {
                let handed = self.guard.try_pin(pages).ok()?;
                (self.elsewhere.try_pin(pages).ok()?, Some(handed))
            }
            Mode::NoLease => (self.elsewhere.try_pin(pages).ok()?, None),
        })
    }
}

/// The pages of buffer `n`.
fn pages_of(n: usize) -> PageRange {
    let first = n as u64 * PAGES;
    PageRange::new(first, first + PAGES).unwrap_or(PageRange::ALL)
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
    let mode = match (args.no_lease, args.pin_in_handle) {
        (true, _) => Mode::NoLease,
        (_, true) => Mode::PinInHandle,
        _ => Mode::Right,
    };
    let buffers = usize::from(args.buffers);
    let memory = Arc::new(Memory::new(buffers as u64 * PAGES)?);
    let ring = Ring::new(u32::from(args.buffers), Arc::clone(&memory));
    let ring = ring.map_err(|e| format!("io_uring is refused: {e}"))?;
    let mut random = SmallRng::from_os_rng();
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let load = Load::new(&dir, Arc::clone(&memory), SmallRng::from_rng(&mut random));
    let mut load = load.map_err(|e| format!("{}: {e}", dir.display()))?;
    println!(
        "{buffers} registered buffers of {PAGES} pages, taken away and given back under load, for {} s, {}",
        args.seconds,
        match mode {
            Mode::Right => "with leases, and pins in the requests",
            Mode::PinInHandle => "with leases, but pins in the clients' HANDLES",
            Mode::NoLease => "WITHOUT leases and pins",
        }
    );
    if !load.direct {
        println!(
            "note: {} has no direct reads and writes: a thread of the kernel copies, instead of a device",
            dir.display()
        );
    }
    let scene = Scene {
        mode,
        guard: LayoutGuard::default(),
        elsewhere: LayoutGuard::default(),
        buffers,
        memory,
        abandoned: (0..buffers).map(|_| AtomicBool::new(false)).collect(),
        bell: Bell::new()?,
        over: AtomicBool::new(false),
    };
    let time = Duration::from_secs(args.seconds);
    let (done, ended) = mpsc::channel::<()>();
    let (counts, resizes) = thread::scope(|s| {
        let (scene, load) = (&scene, &mut load);
        s.spawn(move || watch(scene, ended, time + PATIENCE));
        let resizer = s.spawn(move || {
            let until = Instant::now() + time;
            let done = resizer::run(scene, until, &mut random);
            scene.over.store(true, Ordering::Relaxed);
            Waker::from(Arc::clone(&scene.bell)).wake();
            done
        });
        let counts = drive(scene, ring, load).unwrap_or_else(|e| {
            // What is in flight keeps its pins, so there is no end of the resizer to wait for.
            eprintln!("error: {e}");
            exit(2)
        });
        let resizes = resizer.join().map_err(|_| "the resizer panicked")?;
        drop(done);
        Outcome::Ok((counts, resizes?))
    })?;
    let in_file = load.check_file()?;
    Ok(report(&counts, &resizes, &load.traffic, in_file))
}

/// The ring's thread: the buffers' tasks, the load, the completions.
fn drive(scene: &Scene, ring: Ring, load: &mut Load) -> Outcome<Counts> {
    let pool = RefCell::new(Pool::new(scene, ring)?);
    let mut tasks: Vec<Pin<Box<dyn Future<Output = Outcome<()>>>>> = Vec::new();
    for n in 0..scene.buffers {
        tasks.push(Box::pin(life(scene, &pool, n)));
    }
    let waker = Waker::from(Arc::clone(&scene.bell));
    let mut rung = true;
    loop {
        if rung {
            for task in &mut tasks {
                if let Poll::Ready(end) = pin!(task).poll(&mut Context::from_waker(&waker)) {
                    end?;
                }
            }
        }
        let mut pool = pool.borrow_mut();
        if !scene.over.load(Ordering::Relaxed) {
            load.go_on(&mut pool)?;
        } else if pool.busy == 0 {
            return Ok(pool.counts);
        } else {
            pool.cancel_all()?;
        }
        rung = pool.wait(load)?;
    }
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

fn report(counts: &Counts, resizes: &Resizes, traffic: &Traffic, in_file: u64) -> ExitCode {
    let rows = [
        ("records read", traffic.reads),
        ("records written", traffic.writes),
        ("messages", traffic.messages),
        ("breaks", resizes.breaks),
        ("  leases recalled", resizes.leases),
        ("  pins waited for", resizes.pins),
        ("  of abandoned requests", resizes.abandoned),
        ("buffers shrunk by", counts.shrunk),
        ("buffers grown by", counts.grown),
        ("smallest pool", counts.smallest as u64),
        ("largest pool", counts.largest as u64),
        ("pages given back", resizes.pages),
        ("requests dropped", counts.dropped),
        ("  completed for nobody", counts.for_nobody),
        ("requests cancelled by client", counts.cancelled),
        ("requests cancelled by recall", counts.recalled),
        ("  that ended early", counts.ended_early),
        ("  that were done anyway", counts.ended_anyway),
        ("bytes misread", traffic.misread),
        ("bytes overwritten in flight", traffic.overwritten),
        ("bytes garbled in messages", traffic.garbled),
        ("bytes hit after the break", resizes.hit),
        ("bytes wrong in the file", in_file),
    ];
    for (name, number) in rows {
        println!("{name:<28} {number:>12}");
    }
    println!("the longest break took {:.1?}", resizes.longest);
    let astray: u64 = rows.iter().rev().take(5).map(|(_, number)| number).sum();
    if astray > 0 {
        println!("FAILED: {astray} bytes went astray");
        return ExitCode::from(1);
    }
    // All of the pool may have been taken, and a cancellation may always be in time.
    let may_be_none = ["smallest pool", "  that were done anyway"];
    let mut shown = rows.iter().take(rows.len() - 5);
    let idle = shown.find(|(name, number)| *number == 0 && !may_be_none.contains(name));
    if let Some((name, _)) = idle {
        println!("NOTHING SHOWN: {}: none: run it for longer", name.trim());
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}
