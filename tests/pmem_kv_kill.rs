//! The process that writes a pool of `examples/pmem_kv` is killed (SIGKILL) at random moments, again and
//! again on the same pool; after each time the pool must be sound and hold what was acknowledged.
//!
//! The test runs itself as the process to be killed. What that one acknowledges it writes to a pipe, and
//! what it has written there is not lost with it.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::store::compact::Effort;
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::media::VolatileMedia;
use crate::store::{Access, Store};

const KILLS: u64 = 200;
const WRITERS: usize = 2;
const KEYS: usize = 6;
/// Where the child finds its pool, and its seed.
const POOL: &str = "PMEM_KV_KILL_POOL";
const SEED: &str = "PMEM_KV_KILL_SEED";

fn name(writer: usize, key: usize) -> String {
    format!("writer{writer}/key{key}")
}

/// What a key holds in its nth generation; `None`: it was deleted.
fn value(writer: usize, key: usize, generation: u64) -> Option<Vec<u8>> {
    if generation % 5 == 0 {
        return None;
    }
    let seed = generation * 64 + (writer * KEYS + key) as u64;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut value = vec![0; rng.random_range(8..12_000)];
    rng.fill(&mut value[8..]);
    value[..8].copy_from_slice(&generation.to_le_bytes());
    Some(value)
}

fn open(path: &Path, access: Access) -> Result<Store, StoreError> {
    Store::open(path, access, Some(Box::new(VolatileMedia)))
}

// --------------------------------------------------------------------------------------- the child

/// Not a test: the process that is killed. Brings keys from generation to generation until it is.
#[test]
fn child() {
    let Some(path) = env::var_os(POOL).map(PathBuf::from) else {
        return;
    };
    let seed: u64 = env::var(SEED).unwrap().parse().unwrap();
    let store = match open(&path, Access::Write) {
        Err(StoreError::NoPool { .. }) => {
            Store::create(&path, 128 * PAGE, Some(Box::new(VolatileMedia)))
        }
        store => store,
    };
    let store = &store.unwrap();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || write(store, writer, seed));
        }
        scope.spawn(move || {
            for effort in [Effort::Fit, Effort::Pack].into_iter().cycle() {
                store.compact(effort, || true).unwrap();
            }
        });
    });
}

fn write(store: &Store, writer: usize, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed + writer as u64);
    // Each line in one piece: a pipe takes it wholly or not at all.
    let say = |what: &str, key: usize, generation: u64| {
        let line = format!("{what} {writer} {key} {generation}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    };
    let mut generations = [const { None }; KEYS];
    loop {
        let key = rng.random_range(0..KEYS);
        let name = name(writer, key);
        let now = generations[key].unwrap_or_else(|| {
            let value = store.get(name.as_bytes()).unwrap();
            // After a deletion the next one is of a generation that has not been.
            value.map_or(seed * 1_000_000, |value| {
                u64::from_le_bytes(value[..8].try_into().unwrap())
            })
        });
        let next = now + 1;
        say("begin", key, next);
        match value(writer, key, next) {
            Some(value) => drop(store.put(name.as_bytes(), &value).unwrap()),
            None => drop(store.del(name.as_bytes()).unwrap()),
        }
        say("done", key, next);
        generations[key] = Some(next);
    }
}

// -------------------------------------------------------------------------------------- the parent

/// What may be found of one key: the last generation that is known to have been there or later ones.
#[derive(Clone, Debug)]
struct Known {
    /// `None`: before the first generation there was nothing.
    found: Option<Vec<u8>>,
    /// Begun and not acknowledged, when the process was killed.
    begun: Option<u64>,
}

#[derive(Debug, Default)]
struct Tally {
    /// Kills while an operation was under way; of those, how often it had taken effect.
    amid: u64,
    effective: u64,
    /// Kills before there was a pool.
    early: u64,
    acknowledged: u64,
}

#[test]
fn killed_at_random_moments_it_keeps_what_was_acknowledged() {
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut rng = SmallRng::seed_from_u64(7);
    let mut tally = Tally::default();
    let nothing = || {
        vec![
            Known {
                found: None,
                begun: None
            };
            WRITERS * KEYS
        ]
    };
    let (mut known, mut path) = (nothing(), folder.path().join("0.pool"));
    for kill in 0..KILLS {
        // A new pool now and then, so that its making is interrupted, too.
        if kill % 10 == 0 {
            (known, path) = (nothing(), folder.path().join(format!("{kill}.pool")));
        }
        run_and_kill(&path, kill + 1, &mut rng, &mut known, &mut tally);
        look(&path, &mut known, &mut tally);
    }
    println!(
        "{KILLS} kills, {} amid an operation ({} of these had taken effect), {} before there was a pool; \
         {} operations acknowledged; all sound; {:.1} s",
        tally.amid,
        tally.effective,
        tally.early,
        tally.acknowledged,
        start.elapsed().as_secs_f64()
    );
    assert!(tally.amid > KILLS / 2 && tally.effective > 0, "{tally:?}");
    assert!(tally.effective < tally.amid, "{tally:?}");
}

/// Starts the child and kills it after a random number of lines, and a random time amid the next.
fn run_and_kill(
    path: &Path,
    seed: u64,
    rng: &mut SmallRng,
    known: &mut [Known],
    tally: &mut Tally,
) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(POOL, path)
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    let lines_before = rng.random_range(0..if path.exists() { 60 } else { 2 });
    for _ in 0..lines_before {
        assert_ne!(
            lines.read_line(&mut text).unwrap(),
            0,
            "it has ended: {text}"
        );
    }
    let moment = Instant::now() + Duration::from_micros(rng.random_range(0..3000));
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert_eq!(status.signal(), Some(9), "it has ended by itself: {text}");

    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [what, writer, key, generation] = words[..] else {
            panic!("{line}");
        };
        let (writer, key): (usize, usize) = (writer.parse().unwrap(), key.parse().unwrap());
        let generation: u64 = generation.parse().unwrap();
        let known = &mut known[writer * KEYS + key];
        if what == "begin" {
            known.begun = Some(generation);
        } else {
            known.found = value(writer, key, generation);
            known.begun = None;
            tally.acknowledged += 1;
        }
    }
}

/// Opens the pool that is left and compares it with what is known.
fn look(path: &Path, known: &mut [Known], tally: &mut Tally) {
    let store = match open(path, Access::Read) {
        Err(StoreError::NoPool { .. }) => {
            assert!(known.iter().all(|k| k.found.is_none() && k.begun.is_none()));
            tally.early += 1;
            return;
        }
        store => store.unwrap(),
    };
    assert_eq!(store.problems(), []);
    assert!(store.notes().is_empty());
    for (i, known) in known.iter_mut().enumerate() {
        let name = name(i / KEYS, i % KEYS);
        let found = store
            .get(name.as_bytes())
            .unwrap()
            .map(|value| value.to_vec());
        let begun = known
            .begun
            .take()
            .map(|generation| value(i / KEYS, i % KEYS, generation));
        tally.amid += u64::from(begun.is_some());
        let effective = begun.is_some_and(|begun| begun == found);
        assert!(
            effective || found == known.found,
            "{name}: neither the old nor the new value"
        );
        tally.effective += u64::from(effective);
        known.found = found;
    }
    let records = store.scan(b"");
    let owned: u64 = records.iter().map(|(_, entry)| entry.extent.len()).sum();
    assert_eq!(store.stat().unwrap().usage.used, owned);
    for (_, entry) in &records {
        assert!(store.space().is_used(entry.extent));
    }
}
