//! The tasks: clients that are cancelled at random, scans that hold leases, compactors that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use layout_lease::{LayoutLease, PageRange};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::engine::{Engine, HEIRS, PAGES, add};

/// Clients at any time.
const CLIENTS: usize = 16;

/// How many of them are cancelled every other millisecond.
const CANCELLED: usize = 4;

/// The most pages of one operation, of a scan, and of a break.
const LONGEST: u64 = 4;
const SCAN: u64 = 16;
const BREAK: u64 = 4;

/// How long a compactor waits before it looks who is in its way.
const PATIENCE: Duration = Duration::from_millis(1);

/// How often it prints that.
const PRINTED: u64 = 3;

/// Some pages of the engine.
fn pages(random: &mut SmallRng, longest: u64) -> Outcome<PageRange> {
    let start = random.random_range(0..PAGES);
    let len = random.random_range(1..=longest);
    Ok(PageRange::new(start, PAGES.min(start + len))?)
}

/// Pins, and awaits I/O, again and again. `pinning` says where it is.
async fn client(
    engine: Arc<Engine>,
    mut random: SmallRng,
    pinning: Arc<AtomicBool>,
) -> Outcome<()> {
    while !engine.over.load(Ordering::Relaxed) {
        let pages = pages(&mut random, LONGEST)?;
        pinning.store(true, Ordering::Relaxed);
        let pin = engine.guard.pin(pages).await?; // waits for compaction of them to be over
        pinning.store(false, Ordering::Relaxed);
        let slow = random.random_ratio(1, 4);
        let delay = Duration::from_millis(if slow { random.random_range(2..20) } else { 0 });
        engine.io(pin, random.random(), delay).await?;
    }
    Ok(())
}

/// Keeps up the number of clients, and cancels some of them all the time.
pub(crate) async fn clients(engine: Arc<Engine>, mut random: SmallRng) -> Outcome<()> {
    type Client = (JoinHandle<Outcome<()>>, Arc<AtomicBool>);
    let spawn = |random: &mut SmallRng| -> Client {
        let pinning = Arc::new(AtomicBool::new(true));
        let client = client(
            Arc::clone(&engine),
            SmallRng::from_rng(random),
            Arc::clone(&pinning),
        );
        (tokio::spawn(client), pinning)
    };
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| spawn(&mut random)).collect();
    while !engine.over.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(1)).await;
        for _ in 0..CANCELLED {
            let one = random.random_range(0..CLIENTS);
            let (task, pinning) = std::mem::replace(&mut clients[one], spawn(&mut random));
            task.abort();
            match task.await {
                Err(e) if e.is_cancelled() => match pinning.load(Ordering::Relaxed) {
                    true => add(&engine.counts.cancelled_pinning, 1),
                    false => add(&engine.counts.cancelled_in_io, 1),
                },
                other => other??, // it had just come to its end, or failed
            }
        }
    }
    for (task, _) in clients {
        task.await??;
    }
    Ok(())
}

/// Reads a stretch of pages one by one, under a lease of them all; if a compactor wants some of them, it goes
/// on with those that nobody wants.
pub(crate) async fn scans(engine: Arc<Engine>, mut random: SmallRng, n: u64) -> Outcome<()> {
    while !engine.over.load(Ordering::Relaxed) {
        let lease = engine.guard.lease(pages(&mut random, SCAN)?);
        let mut lease: LayoutLease = lease.labelled(format!("scan {n}")).await?;
        let mut next = lease.range().start();
        while next < lease.range().end() {
            let step = async {
                let pin = engine.guard.pin(next..=next).await?;
                engine.io(pin, false, Duration::ZERO).await
            };
            // Whoever waits for a pin under a lease must hear that the lease is wanted: its break may be
            // what the pin waits for.
            let wanted = tokio::select! {
                biased;
                wanted = lease.recalled() => wanted,
                read = step => {
                    read?;
                    next += 1;
                    continue;
                }
            };
            add(&engine.counts.recalled, 1);
            if lease.shrink_to(next..wanted.start()).is_err() {
                break; // nothing is left before what is wanted: all of it goes
            }
            add(&engine.counts.shrunk, 1);
        }
        tokio::task::yield_now().await; // also when no scan gets as far as to wait for anything
    }
    Ok(())
}

/// Moves pages to other blocks, and gives the blocks to others.
pub(crate) async fn compact(engine: Arc<Engine>, mut random: SmallRng, n: u64) -> Outcome<()> {
    let (guard, counts) = (&engine.guard, &engine.counts);
    let heirs = PageRange::new(PAGES + n * HEIRS, PAGES + (n + 1) * HEIRS)?;
    let mut generation = 0;
    while !engine.over.load(Ordering::Relaxed) {
        let pages = pages(&mut random, BREAK)?;
        let mut breaking = guard.break_layouts_arc(pages); // closed from here on
        add(&counts.breaks, 1);
        add(&counts.holders, breaking.holders().len() as u64);
        let proof = match timeout(PATIENCE, &mut breaking).await {
            Ok(proof) => proof?,
            Err(_) => {
                let before = counts.timeouts.fetch_add(1, Ordering::Relaxed);
                if before < PRINTED {
                    let holders = breaking.holders();
                    let holders: Vec<_> = holders.iter().map(|h| format!("\n  {h}")).collect();
                    let holders = holders.concat();
                    println!("compactor {n} waits for pages {pages}, held by:{holders}");
                }
                if random.random() {
                    drop(breaking); // open again
                    add(&counts.given_up, 1);
                    continue;
                }
                // A timeout has changed nothing.
                if guard.try_pin(pages).is_ok() {
                    return Err(format!("pages {pages} are open under a break").into());
                }
                add(&counts.kept, 1);
                breaking.await?
            }
        };
        generation += 1;
        let moved = engine.relocate(proof, heirs, generation).await?;
        add(&counts.moved, moved);
        sleep(Duration::from_millis(random.random_range(0..3))).await;
        add(&counts.hit, engine.check(heirs, generation).await?);
        guard.punch_hole(heirs).await?;
    }
    Ok(())
}
