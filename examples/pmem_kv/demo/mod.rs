//! The demo: real files into a pool; then readers that verify every byte, writers that overwrite and
//! delete, and a compactor that moves, punches and truncates, all at the same time; then the numbers;
//! then the pool is opened again and compared with what it must hold.
//!
//! It fails when a byte was wrong, and also when it has proved nothing: a run in which nobody read,
//! no break had to wait, or nothing was cut off is a failure.

mod corpus;
mod run;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use self::corpus::Corpus;
use self::run::Run;
use crate::report::{Table, bytes, duration, findings};
use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::media::Media;
use crate::store::waits::WaitSummary;
use crate::store::{Access, Breaks, Stat, Store};
use crate::{Failure, Kind};

/// How much longer than it was asked to it runs at most, on a slow machine, to prove something.
const MORE: Duration = Duration::from_secs(30);

/// What the demo was asked for.
pub(crate) struct Demo {
    pub(crate) pool: Option<PathBuf>,
    pub(crate) media: Kind,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) seconds: u64,
    pub(crate) readers: usize,
    pub(crate) writers: usize,
}

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let io = |what: &str| {
            let what = what.to_owned();
            |e| Failure::Io(what, e)
        };
        let dir = self.dir.clone().unwrap_or_else(default_dir);
        let corpus = Corpus::read(&dir).map_err(io(&dir.display().to_string()))?;
        // Dropped at the end, and with it the folder and a pool in it.
        let temporary = tempfile::tempdir().map_err(io("a temporary folder"))?;
        let path = match &self.pool {
            Some(path) => path.clone(),
            None => temporary.path().join("demo.pool"),
        };
        let capacity = (corpus.logical() * 4).max(256 << 20);
        let store = Store::create(&path, capacity, self.media.media()?)?;
        println!("pool   {}, media: {}", path.display(), store.stat()?.media);
        println!(
            "files  {} from {}, {}; as {} keys, {}",
            corpus.files,
            dir.display(),
            bytes(corpus.bytes),
            corpus.len(),
            bytes(corpus.logical())
        );

        load(&store, &corpus)?;
        let loaded = store.stat()?;
        let run = Run::new(&store, &corpus);
        let before = store.breaks();
        let start = Instant::now();
        self.threads(&run, start);
        let took = start.elapsed();
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
            ..
        } = run;
        let mut faults = faults.into_inner();
        store.close();

        let checked = verify_reopened(&path, self.media.media()?, &corpus, &keys, &mut faults)?;
        print!(
            "{}",
            table(took, &counts, &breaks, [&loaded, &after], checked)
        );

        for fault in &faults {
            println!("WRONG: {fault}");
        }
        if checked == 0 {
            unproved.push("values verified after reopening");
        }
        for what in &unproved {
            println!("NOTHING PROVED: there were no {what}");
        }
        if !faults.is_empty() || !unproved.is_empty() {
            return Err(Failure::Exit(1));
        }
        println!("every byte was right");
        Ok(())
    }

    fn threads(&self, run: &Run<'_>, start: Instant) {
        let bar = bar(self.seconds * 10, "{bar:40} {elapsed} {msg}");
        thread::scope(|scope| {
            for i in 0..self.readers {
                scope.spawn(move || run.thread(|run| run.reader(i as u64)));
            }
            for i in 0..self.writers {
                let seed = 1000 + i as u64;
                scope.spawn(move || run.thread(|run| run.writer(i, self.writers, seed)));
            }
            scope.spawn(move || run.thread(Run::compactor));
            let end = start + Duration::from_secs(self.seconds);
            run.until(end, MORE, || {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                bar.set_position(start.elapsed().as_millis() as u64 / 100);
                bar.set_message(format!(
                    "{} gets, {} verified, {} puts, {} dels, {} moves, {} wrong",
                    get(&run.counts.gets),
                    HumanBytes(get(&run.counts.verified)),
                    get(&run.counts.puts),
                    get(&run.counts.dels),
                    get(&run.counts.moved),
                    get(&run.counts.checksum_failures) + get(&run.counts.wrong_bytes),
                ));
            });
        });
        bar.finish_and_clear();
    }
}

/// The checkout that this was built from, if it is still there.
fn default_dir() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if built.is_dir() {
        return built.to_owned();
    }
    env::current_dir().unwrap_or_else(|_| ".".into())
}

/// A progress bar; hidden where standard error is no terminal.
fn bar(len: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style)
}

/// Puts generation 0 of every key, from several threads: the file system flushes for them together.
fn load(store: &Store, corpus: &Corpus) -> Result<(), Failure> {
    const LOADERS: usize = 8;
    let bar = bar(corpus.logical(), "{bar:40} {bytes} of {total_bytes} loaded");
    let part = |me: usize| -> Result<(), StoreError> {
        for key in (me..corpus.len()).step_by(LOADERS) {
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
    keys: &[run::Progress],
    faults: &mut Vec<String>,
) -> Result<u64, Failure> {
    let store = Store::open(path, Access::Read, media)?;
    faults.extend(findings(&store).into_iter().map(|f| format!("check: {f}")));
    let mut expected: BTreeMap<&[u8], (usize, u64)> = BTreeMap::new();
    for (key, progress) in keys.iter().enumerate() {
        let generation = progress.acked();
        if !Corpus::is_deletion(key, generation) {
            expected.insert(corpus.key(key).as_bytes(), (key, generation));
        }
    }
    let found = store.scan(b"");
    let names = found.iter().map(|(name, _)| &**name);
    if !names.eq(expected.keys().copied()) {
        faults.push(format!(
            "after reopening there are {} keys, expected {}, or other ones",
            found.len(),
            expected.len()
        ));
    }
    let mut verified = 0;
    for (name, (key, generation)) in expected {
        match store.get(name)?.map(|value| corpus.verify(key, &value)) {
            Some(Ok(found)) if found == generation => verified += 1,
            Some(Ok(found)) => faults.push(format!(
                "after reopening {} is of generation {found}, expected {generation}",
                corpus.key(key)
            )),
            Some(Err(wrong)) => faults.push(format!("after reopening {wrong}")),
            None => faults.push(format!("after reopening {} is gone", corpus.key(key))),
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
        ("  let go early, being wanted", &counts.let_go, None),
        ("scan", &counts.scans, None),
        ("put", &counts.puts, Some(&counts.written)),
        ("del", &counts.dels, None),
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

    table.head("breaks");
    table.row("", [&"breaks", &"waited", &"wait p50", &"p99", &"max"]);
    let all: [(&str, WaitSummary); 3] = [
        ("of old records, retired", breaks.frees),
        ("of new pages to write", breaks.claims),
        ("of the file's end to cut", breaks.truncations),
    ];
    for (name, b) in all {
        let (p50, p99, max) = (duration(b.p50), duration(b.p99), duration(b.max));
        match b.waited {
            0 => table.row(name, [&b.breaks, &0, &"-", &"-", &"-"]),
            _ => table.row(name, [&b.breaks, &b.waited, &p50, &p99, &max]),
        }
    }
    table.row("look-ups that were out of date", [&breaks.retries]);

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
    table.row("holes refused by the file system", [&after.unpunched]);

    table.head("wrong");
    table.row("checksum failures", [&get(&counts.checksum_failures)]);
    table.row("wrong or stale bytes", [&get(&counts.wrong_bytes)]);
    table.row("values right after reopening", [&verified]);
    table
}
