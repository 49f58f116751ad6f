//! `bench`: so many threads do a mix of operations on values of one size, then of the next; how often, and
//! how long each takes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::cli::{BenchArgs, Kind};
use crate::report::{Table, bar, bytes, duration};
use crate::store::error::StoreError;
use crate::store::transfer::{Device, Transfers};
use crate::store::{Access, Store, Value};
use crate::{Failure, at, interrupted, temporary};

/// Bytes of all values of one size, about; and the keys at most.
const BYTES: u64 = 64 << 20;
const KEYS: u64 = 5_000;
/// Threads that load: the file system flushes for them together.
const LOADERS: u64 = 8;

/// The operations, in the order of the mix's weights.
const NAMES: [&str; 4] = ["read", "overwrite", "delete", "export"];

/// How often each operation is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix([u32; 4]);

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut mix = Mix([0; 4]);
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let known = NAMES.iter().position(|known| *known == name);
            let i = known.ok_or_else(|| format!("{name} is none of {}", NAMES.join(", ")))?;
            mix.0[i] = weight.parse().map_err(|e| format!("{weight}: {e}"))?;
        }
        match mix
            .0
            .iter()
            .try_fold(0, |sum: u32, weight| sum.checked_add(*weight))
        {
            Some(1..) => Ok(mix),
            _ => Err("the weights have no sum to divide by".to_owned()),
        }
    }
}

impl Mix {
    fn pick(&self, rng: &mut SmallRng) -> usize {
        let mut at = rng.random_range(0..self.0.iter().sum());
        for (i, weight) in self.0.iter().enumerate() {
            if at < *weight {
                return i;
            }
            at -= weight;
        }
        unreachable!("it is less than the sum")
    }
}

/// Latencies of each operation in nanoseconds.
type Latencies = [Histogram<u64>; 4];

fn latencies() -> Latencies {
    std::array::from_fn(|_| Histogram::new(3).expect("so many digits are valid"))
}

/// What was measured with values of one size.
struct Measured {
    size: u64,
    keys: u64,
    took: Duration,
    latencies: Latencies,
}

pub(crate) fn run(pool: Option<&Path>, media: Kind, args: &BenchArgs) -> Result<(), Failure> {
    let temporary = temporary(pool)?;
    let mut all = Vec::new();
    let mut about = (String::new(), String::new());
    for size in &args.values {
        let path = temporary.path().join("bench.pool");
        let keys = (BYTES / size).clamp(16, KEYS);
        let capacity = (keys * (size + 8192) * 2).max(128 << 20);
        let store = Store::create(&path, capacity, media.media()?)?;
        about.0 = store.media().to_owned();
        about.1 = Transfers::new(&store, args.device.into())?.device();
        load(&store, *size, keys)?;
        let held = hold(&store, args.hold)?;
        if interrupted() {
            break;
        }
        all.push(measure(&store, *size, keys, args, temporary.path())?);
        drop(held);
        store.close();
        // It must have been a real one.
        let store = Store::open(&path, Access::Read, media.media()?)?;
        if let Some(problem) = store.problems().first() {
            return Err(StoreError::Damaged(problem.clone()).into());
        }
        store.close();
        std::fs::remove_file(&path).map_err(at(&path))?;
        if interrupted() {
            break;
        }
    }
    let (media, device) = about;
    if args.json {
        print!("{}", json(&all, &media, &device, args));
    } else {
        println!(
            "media: {media}; {} threads; exports by {device}; {} old values held",
            args.threads, args.hold
        );
        print!("{}", table(&all));
        if all.iter().any(|measured| rows(measured).count() > 1) {
            println!(
                "Each thread does one operation of the mix after the other: the rates are in the mix's \
                 proportions, and the slow operations set the pace of all. For one by itself: --mix read"
            );
        }
    }
    if interrupted() {
        return Err(Failure::Exit(130));
    }
    Ok(())
}

fn name(key: u64) -> Vec<u8> {
    format!("key{key:08}").into_bytes()
}

/// Bytes that no file system and no device can make shorter.
fn value(size: u64) -> Vec<u8> {
    let mut value = vec![0; size as usize];
    SmallRng::seed_from_u64(size).fill(&mut value[..]);
    value
}

/// Puts every key.
fn load(store: &Store, size: u64, keys: u64) -> Result<(), StoreError> {
    let progress = bar(keys, "{bar:40} {pos} of {len} values loaded");
    let value = value(size);
    let part = |me: u64| -> Result<(), StoreError> {
        for key in (me..keys).step_by(LOADERS as usize) {
            if interrupted() {
                break;
            }
            store.put(&name(key), &value)?;
            progress.inc(1);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let part = &part;
        let loaders: Vec<_> = (0..LOADERS)
            .map(|me| scope.spawn(move || part(me)))
            .collect();
        let joined = loaders
            .into_iter()
            .map(|loader| loader.join().expect("a loader does not panic"));
        joined.collect()
    })
}

/// Puts values and others in their place, and holds the old ones for as long as what it returns.
fn hold(store: &Store, values: u64) -> Result<Vec<Value>, StoreError> {
    let mut held = Vec::new();
    for i in (0..values).take_while(|_| !interrupted()) {
        let name = format!("held{i:08}").into_bytes();
        store.put(&name, b"old")?;
        held.extend(store.get(&name)?);
        store.put(&name, b"new")?;
    }
    Ok(held)
}

/// Lets all threads at the store for the time asked for.
fn measure(
    store: &Store,
    size: u64,
    keys: u64,
    args: &BenchArgs,
    exports: &Path,
) -> Result<Measured, Failure> {
    let stop = AtomicBool::new(false);
    // The time begins when all threads are there.
    let begin = Barrier::new(args.threads as usize + 1);
    let mut start = Instant::now();
    let progress = bar(args.seconds * 10, "{bar:40} {elapsed} {msg}");
    progress.set_message(format!("values of {}", bytes(size)));
    let mut all = latencies();
    thread::scope(|scope| {
        let worker = |seed| {
            let worker = Worker {
                store,
                size,
                keys,
                mix: args.mix,
                device: args.device.into(),
                export: exports.join(format!("export{seed}")),
                stop: &stop,
            };
            let begin = &begin;
            move || {
                begin.wait();
                let worked = worker.work(seed);
                // Nobody goes on alone after an error.
                worker.stop.fetch_or(worked.is_err(), Ordering::Relaxed);
                worked
            }
        };
        let workers: Vec<_> = (0..args.threads).map(|i| scope.spawn(worker(i))).collect();
        begin.wait();
        start = Instant::now();
        let end = start + Duration::from_secs(args.seconds);
        while Instant::now() < end && !interrupted() && !stop.load(Ordering::Relaxed) {
            let tick = Duration::from_millis(100);
            thread::park_timeout(tick.min(end.saturating_duration_since(Instant::now())));
            progress.set_position(start.elapsed().as_millis() as u64 / 100);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let one = worker.join().expect("a worker does not panic")?;
            for (all, one) in all.iter_mut().zip(one) {
                all.add(one).expect("it grows to what is added");
            }
        }
        Ok::<(), Failure>(())
    })?;
    progress.finish_and_clear();
    Ok(Measured {
        size,
        keys,
        took: start.elapsed(),
        latencies: all,
    })
}

/// One thread: one operation after the other, each timed.
struct Worker<'a> {
    store: &'a Store,
    size: u64,
    keys: u64,
    mix: Mix,
    device: Device,
    export: PathBuf,
    stop: &'a AtomicBool,
}

impl Worker<'_> {
    fn work(&self, seed: u64) -> Result<Latencies, StoreError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut transfers = Transfers::new(self.store, self.device)?;
        let mut latencies = latencies();
        let value = value(self.size);
        while !self.stop.load(Ordering::Relaxed) {
            let operation = self.mix.pick(&mut rng);
            let name = name(rng.random_range(0..self.keys));
            let start = Instant::now();
            match operation {
                // Every byte of the value is looked at, in place. What was deleted is not counted.
                0 => match self.store.get(&name)? {
                    Some(value) => {
                        std::hint::black_box(crc32c::crc32c(&value));
                    }
                    None => continue,
                },
                1 => drop(self.store.put(&name, &value)?),
                // What is not there any more is put back instead, which is not measured.
                2 => {
                    if !self.store.del(&name)? {
                        self.store.put(&name, &value)?;
                        continue;
                    }
                }
                _ if !transfers.export(0, &name, &self.export)? => continue,
                _ => {
                    if let Some(done) = transfers.next()? {
                        done.outcome?;
                    }
                }
            }
            let nanos = start.elapsed().as_nanos() as u64;
            // It grows to what it is given, so it takes everything.
            let _ = latencies[operation].record(nanos);
        }
        Ok(latencies)
    }
}

/// The operations that there were, with their latencies, and the part of all threads' time that each took.
fn rows(measured: &Measured) -> impl Iterator<Item = (&'static str, &Histogram<u64>, f64)> {
    let time = |histogram: &Histogram<u64>| histogram.mean() * histogram.len() as f64;
    let sum: f64 = measured.latencies.iter().map(time).sum();
    let all = NAMES.into_iter().zip(&measured.latencies);
    all.filter(|(_, histogram)| !histogram.is_empty())
        .map(move |(name, histogram)| (name, histogram, time(histogram) / sum))
}

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

fn table(all: &[Measured]) -> Table {
    let mut table = Table::default();
    for measured in all {
        table.head(&format!(
            "values of {}, {} keys",
            bytes(measured.size),
            measured.keys
        ));
        let names: [&dyn std::fmt::Display; 6] = [
            &"a second",
            &"bytes a second",
            &"of the time",
            &"p50",
            &"p99",
            &"p99.9",
        ];
        table.row("", names);
        for (name, histogram, part) in rows(measured) {
            let rate = histogram.len() as f64 / measured.took.as_secs_f64();
            let moved = match name {
                "delete" => "-".to_owned(),
                _ => bytes((rate * measured.size as f64) as u64),
            };
            let (rate, part) = (format!("{rate:.0}"), format!("{:.1} %", part * 100.0));
            let at = |q| duration(Duration::from_nanos(histogram.value_at_quantile(q)));
            let [p50, p99, p999] = QUANTILES.map(at);
            table.row(name, [&rate, &moved, &part, &p50, &p99, &p999]);
        }
    }
    table
}

/// One object a line, for programs.
fn json(all: &[Measured], media: &str, device: &str, args: &BenchArgs) -> String {
    let (threads, hold) = (args.threads, args.hold);
    let mut text = String::new();
    for measured in all {
        for (name, histogram, part) in rows(measured) {
            let seconds = measured.took.as_secs_f64();
            let [p50, p99, p999] = QUANTILES.map(|q| histogram.value_at_quantile(q));
            // Rust quotes these names as JSON does: they are plain ASCII.
            let _ = writeln!(
                text,
                "{{\"media\":{media:?},\"device\":{device:?},\"threads\":{threads},\"held\":{hold},\"value_bytes\":{},\
                 \"keys\":{},\"operation\":{name:?},\"count\":{},\"seconds\":{seconds:.3},\
                 \"of_the_time\":{part:.4},\"per_second\":{:.1},\"p50_ns\":{p50},\"p99_ns\":{p99},\"p999_ns\":{p999}}}",
                measured.size,
                measured.keys,
                histogram.len(),
                histogram.len() as f64 / seconds
            );
        }
    }
    text
}
