//! The demo: real files into a pool; then readers that verify every byte, writers that overwrite and
//! delete, and a compactor that moves, punches and truncates, all at the same time; then the numbers;
//! then the pool is opened again and compared with what it must hold.
//!
//! It fails when a byte was wrong, and also when it has proved nothing: a run in which nobody read,
//! no break had to wait, or nothing was cut off is a failure.

mod corpus;
mod exports;
mod run;

use std::collections::BTreeMap;
use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use clap::builder::PossibleValue;
use indicatif::HumanBytes;
use rustix::process::Signal;

use self::corpus::Corpus;
use self::run::Run;
use crate::cli::{DemoArgs, Kind};
use crate::report::{Table, bar, bytes, duration, findings};
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::media::Media;
use crate::store::transfer::{Device, Transfers};
use crate::store::waits::WaitSummary;
use crate::store::{Access, Breaks, Stat, Store};
use crate::{Failure, at, interrupted, temporary};

/// How much longer than it was asked to it runs at most, on a slow machine, to prove something. Without the breaks
/// it never runs for longer.
const MORE: Duration = Duration::from_secs(30);

/// What the demo was asked for.
pub(crate) struct Demo {
    pub(crate) pool: Option<PathBuf>,
    pub(crate) media: Kind,
    pub(crate) args: DemoArgs,
}

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let dir = self.args.dir.clone().unwrap_or_else(default_dir);
        let corpus = Corpus::read(&dir).map_err(at(&dir))?;
        // Dropped at the end, and with it the folder, a pool in it, and what was exported.
        let temporary = temporary(self.pool.as_deref())?;
        let path = match &self.pool {
            Some(path) => path.clone(),
            None => temporary.path().join("demo.pool"),
        };
        let exports = self.args.exports.as_deref().unwrap_or(temporary.path());
        let capacity = (corpus.logical() * 4).max(256 << 20);
        let store = Store::create(&path, capacity, self.media.media()?)?;
        let transfers = Transfers::new(&store, self.args.device.into())?;
        println!("{}", self.what_runs(transfers.is_async()));
        println!("pool    {}, media: {}", path.display(), store.media());
        println!("device  {}", transfers.device());
        println!(
            "files   {} from {}, {}; as {} keys, {}",
            corpus.files,
            dir.display(),
            bytes(corpus.bytes),
            corpus.len(),
            bytes(corpus.logical())
        );

        drop(transfers);
        load(&store, &corpus)?;
        if let Some(doomed) = self.args.doomed {
            // SAFETY: none, and that is the point: `without_lease`, below, runs this in a process of its
            // own, and believes nothing of it but its end and what it has counted. Every value is
            // dropped before the store: the threads of the run end before it does.
            unsafe { store.without_lease(doomed == Doomed::Cut) };
        }
        if interrupted() {
            store.close();
            return Err(Failure::Exit(130));
        }
        let loaded = store.stat()?;
        let run = Run::new(&store, &corpus, self.args.doomed.is_none());
        let before = store.breaks();
        let start = Instant::now();
        self.threads(&run, start, exports);
        let took = start.elapsed();
        if interrupted() {
            drop(run);
            store.close();
            println!("interrupted: the pool is closed, and nothing is proved");
            return Err(Failure::Exit(130));
        }
        let breaks = store.breaks().since(&before);
        let mut unproved = run.unproved(&breaks);
        // What the writers have left in pieces, for as long as it is worth waiting for.
        let enough = Instant::now() + Duration::from_secs(10);
        store.compact(Effort::Pack, || Instant::now() < enough)?;
        let after = store.stat()?;
        let Run {
            keys,
            counts,
            faults,
            imports,
            holder,
            ..
        } = run;
        let mut faults = faults.into_inner();
        let wrong = faults.len();
        store.close();

        let mut expected = imports.into_inner();
        for (key, progress) in keys.iter().enumerate() {
            let generation = progress.acked();
            if !Corpus::is_deletion(key, generation) {
                expected.insert(corpus.key(key).to_owned(), (key, generation));
            }
        }
        let checked = verify_reopened(&path, self.media.media()?, &corpus, &expected, &mut faults)?;
        print!(
            "{}",
            table(took, &counts, &breaks, [&loaded, &after], checked)
        );
        if let Some(holder) = holder.into_inner() {
            println!("One of those for whom a compaction left old pages where they were: {holder}");
        }

        if self.args.doomed.is_some() {
            faults.truncate(3);
        }
        for fault in &faults {
            println!("WRONG: {fault}");
        }
        if checked == 0 {
            unproved.push("values verified after reopening");
        }
        for what in &unproved {
            println!("NOTHING PROVED: there were no {what}");
        }
        if self.args.doomed.is_some() {
            println!("without breaks, in {}: {}", duration(took), counts.wrong());
            return if wrong > 0 {
                Ok(())
            } else {
                Err(Failure::Exit(1))
            };
        }
        if !faults.is_empty() || !unproved.is_empty() {
            return Err(Failure::Exit(1));
        }
        println!(
            "every byte was right, in {}: {}",
            duration(took),
            counts.wrong()
        );
        println!(
            "The same with the breaks left out, to see what they are for: demo --without-lease"
        );
        Ok(())
    }

    /// Who does what, in words.
    fn what_runs(&self, ring: bool) -> String {
        let args = &self.args;
        let exports = match ring {
            true => format!("{} at a time through an io_uring", exports::DEPTH),
            false => format!("by {} threads", exports::THREADS),
        };
        let breaks = match self.args.doomed {
            None => "Every free, move and cut waits until nobody uses the pages (`break_layouts`).",
            Some(_) => {
                "WITHOUT BREAKS: pages are freed, moved and cut off under those who use them."
            }
        };
        format!(
            "A key-value store in a mapped file. All at the same time, for {} s:\n  \
             {} readers, each with up to {} values in its hands, which are not copied: every byte is\n    \
             compared when a value is got and again when it is let go\n  \
             {} writers overwrite values, delete them and put them again\n  \
             exports to files, {exports}; each file is compared, and every other one imported\n  \
             a compactor moves values to the front, punches holes, truncates the file\n\
             {breaks}",
            args.seconds,
            args.readers,
            run::HELD,
            args.writers,
        )
    }

    fn threads(&self, run: &Run<'_>, start: Instant, exports: &Path) {
        let args = &self.args;
        let bar = bar(args.seconds * 10, "{bar:40} {elapsed} {msg}");
        thread::scope(|scope| {
            for i in 0..args.readers {
                scope.spawn(move || run.thread(|run| run.reader(i)));
            }
            let writers = args.writers as usize;
            for i in 0..writers {
                let seed = 1000 + i as u64;
                scope.spawn(move || run.thread(|run| run.writer(i, writers, seed)));
            }
            let device = Device::from(args.device);
            let ring = Transfers::new(run.store, device).is_ok_and(|t| t.is_async());
            for i in 0..if ring { 1 } else { exports::THREADS } {
                scope.spawn(move || run.thread(|run| run.exporter(i, device, exports)));
            }
            scope.spawn(move || run.thread(Run::compactor));
            let end = start + Duration::from_secs(args.seconds);
            let more = if run.protected { MORE } else { Duration::ZERO };
            run.until(end, more, || {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                bar.set_position(start.elapsed().as_millis() as u64 / 100);
                bar.set_message(format!(
                    "{} gets, {} verified, {} exports, {} puts, {} dels, {} moves, {} wrong",
                    get(&run.counts.gets),
                    HumanBytes(get(&run.counts.verified)),
                    get(&run.counts.exports),
                    get(&run.counts.puts),
                    get(&run.counts.dels),
                    get(&run.counts.moved),
                    get(&run.counts.wrong_bytes) + get(&run.counts.wrong_exports),
                ));
            });
        });
        bar.finish_and_clear();
    }
}

/// What a run without the protection does with the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Doomed {
    /// Cut it off: who reads behind it dies.
    Cut,
    /// Leave it.
    Keep,
}

/// The demo with breaks that find nobody to wait for, in a process of its own. If that is killed by a
/// read behind the end of the file, once more without cutting anything off, to see what else goes wrong.
pub(crate) fn without_lease(
    pool: Option<&Path>,
    media: Kind,
    args: &DemoArgs,
) -> Result<(), Failure> {
    let temporary = temporary(pool)?;
    let program = env::current_exe().map_err(at(Path::new("this program")))?;
    for doomed in [Doomed::Cut, Doomed::Keep] {
        let mut child = Command::new(&program);
        let name = |value: Option<PossibleValue>| {
            value.map_or_else(String::new, |v| v.get_name().to_owned())
        };
        child
            .arg("demo")
            .args(["--media", &name(media.to_possible_value())]);
        child.args(["--doomed", &name(doomed.to_possible_value())]);
        child.args(["--device", &name(args.device.to_possible_value())]);
        child
            .arg("--pool")
            .arg(temporary.path().join(name(doomed.to_possible_value())));
        for (what, count) in [
            ("--seconds", args.seconds),
            ("--readers", args.readers),
            ("--writers", args.writers),
        ] {
            child.arg(what).arg(count.to_string());
        }
        for (what, path) in [("--dir", &args.dir), ("--exports", &args.exports)] {
            if let Some(path) = path {
                child.arg(what).arg(path);
            }
        }
        let start = Instant::now();
        let status = child.status().map_err(at(&program))?;
        if status.success() {
            return Ok(());
        }
        if interrupted() {
            return Err(Failure::Exit(130));
        }
        let after = duration(start.elapsed());
        match (status.signal(), doomed) {
            (Some(signal), Doomed::Cut) if signal == Signal::BUS.as_raw() => println!(
                "without breaks: killed by SIGBUS after {after}: pages were cut off the file while they \
                 were read. Once more, without cutting anything off:"
            ),
            (Some(signal), _) => {
                println!("without breaks: killed by signal {signal} after {after}");
                return Err(Failure::Exit(1));
            }
            (None, _) => {
                println!("without breaks nothing went wrong this time: run it for longer");
                return Err(Failure::Exit(1));
            }
        }
    }
    Ok(())
}

/// The checkout that this was built from, if it is still there.
fn default_dir() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if built.is_dir() {
        return built.to_owned();
    }
    env::current_dir().unwrap_or_else(|_| ".".into())
}

/// Puts generation 0 of every key, from several threads: the file system flushes for them together.
fn load(store: &Store, corpus: &Corpus) -> Result<(), Failure> {
    const LOADERS: usize = 8;
    let bar = bar(corpus.logical(), "{bar:40} {bytes} of {total_bytes} loaded");
    let part = |me: usize| -> Result<(), StoreError> {
        for key in (me..corpus.len()).step_by(LOADERS) {
            if interrupted() {
                break;
            }
            let value = corpus.value(key, 0);
            store.put(corpus.key(key).as_bytes(), &value)?;
            bar.inc(value.len() as u64);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS)
            .map(|me| scope.spawn(move || part(me)))
            .collect();
        for loader in loaders {
            loader.join().expect("a loader does not panic")?;
        }
        Ok::<(), StoreError>(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Opens the pool again and compares it with what was acknowledged; the number of values verified.
fn verify_reopened(
    path: &Path,
    media: Option<Box<dyn Media>>,
    corpus: &Corpus,
    expected: &BTreeMap<String, (usize, u64)>,
    faults: &mut Vec<String>,
) -> Result<u64, Failure> {
    let store = Store::open(path, Access::Read, media)?;
    faults.extend(findings(&store).into_iter().map(|f| format!("check: {f}")));
    let found = store.scan(b"");
    let names = found.iter().map(|(name, _)| &**name);
    if !names.eq(expected.keys().map(String::as_bytes)) {
        faults.push(format!(
            "after reopening there are {} keys, expected {}, or other ones",
            found.len(),
            expected.len()
        ));
    }
    let mut verified = 0;
    for (name, (key, generation)) in expected {
        let value = store.get(name.as_bytes())?;
        match value.map(|value| corpus.verify(*key, &value)) {
            Some(Ok(found)) if found == *generation => verified += 1,
            Some(Ok(found)) => faults.push(format!(
                "after reopening {name} is of generation {found}, expected {generation}"
            )),
            Some(Err(wrong)) => faults.push(format!("after reopening {name}: {wrong}")),
            None => faults.push(format!("after reopening {name} is gone")),
        }
    }
    store.close();
    Ok(verified)
}

fn table(
    took: Duration,
    counts: &run::Counts,
    breaks: &Breaks,
    [loaded, after]: [&Stat; 2],
    verified: u64,
) -> Table {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut table = Table::default();
    table.head(&format!("operations in {}", duration(took)));
    table.row("", [&"number", &"bytes"]);
    for (name, number, size) in [
        ("get", &counts.gets, Some(&counts.read)),
        ("  of them not found", &counts.misses, None),
        (
            "  verified, twice each",
            &counts.gets,
            Some(&counts.verified),
        ),
        ("  let go early, as wanted", &counts.let_go, None),
        ("scan", &counts.scans, None),
        ("put", &counts.puts, Some(&counts.written)),
        ("del", &counts.dels, None),
        ("export", &counts.exports, Some(&counts.exported)),
        ("import", &counts.imports, Some(&counts.imported)),
        ("compact", &counts.compactions, None),
        ("  records moved", &counts.moved, Some(&counts.moved_bytes)),
    ] {
        let size = size.map_or_else(|| "-".to_owned(), |size| bytes(get(size)));
        if name.contains("twice") {
            table.row(name, [&"-", &size]);
        } else {
            table.row(name, [&get(number), &size]);
        }
    }
    table.row(
        "  cut off the file",
        [&"-", &bytes(get(&counts.cut) * PAGE)],
    );

    table.row(
        "  left while read, at most",
        [&"-", &bytes(get(&counts.pinned) * PAGE)],
    );

    table.head("breaks, and how long those took that found somebody at the pages");
    table.row("", [&"breaks", &"in use", &"p50", &"p99", &"max"]);
    let all: [(&str, WaitSummary); 3] = [
        ("old records, freed later", breaks.frees),
        ("new pages, to write", breaks.claims),
        ("the file's end, to cut off", breaks.truncations),
    ];
    for (name, b) in all {
        let (p50, p99, max) = (duration(b.p50), duration(b.p99), duration(b.max));
        match b.waited {
            0 => table.row(name, [&b.breaks, &0, &"-", &"-", &"-"]),
            _ => table.row(name, [&b.breaks, &b.waited, &p50, &p99, &max]),
        }
    }
    let retries: [&dyn std::fmt::Display; 5] = [&breaks.retries, &"-", &"-", &"-", &"-"];
    table.row("look-ups made again", retries);

    table.head("space");
    table.row("", [&"loaded", &"at most", &"at the end"]);
    let file = |stat: &Stat| stat.usage.file * PAGE;
    let peak = get(&counts.peak).max(file(loaded));
    let space: [(&str, u64, Option<u64>, u64); 4] = [
        ("keys and values", loaded.logical, None, after.logical),
        (
            "pages used",
            loaded.usage.used * PAGE,
            None,
            after.usage.used * PAGE,
        ),
        ("file length", file(loaded), Some(peak), file(after)),
        ("allocated (du)", loaded.allocated, None, after.allocated),
    ];
    for (name, first, most, last) in space {
        let most = most.map_or_else(|| "-".to_owned(), bytes);
        table.row(name, [&bytes(first), &most, &bytes(last)]);
    }
    table.row(
        "holes refused",
        [&"-", &"-", &bytes(after.unpunched * PAGE)],
    );

    table.head("what came out wrong");
    table.row("checksum failures", [&get(&counts.checksum_failures)]);
    table.row("wrong or stale bytes", [&get(&counts.wrong_bytes)]);
    table.row("wrong exports", [&get(&counts.wrong_exports)]);
    table.row("wrong imports", [&get(&counts.wrong_imports)]);
    table.row("values right after reopening", [&verified]);
    table
}
