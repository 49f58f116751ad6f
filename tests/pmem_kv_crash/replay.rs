//! Crashes: what may be left of a history at any of its moments, opened and compared with what it must hold.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::ops::AddAssign;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::power::{LINE, Line, Logged, Power, Remains};
use crate::record::{History, KEYS, Operation, Scene, key, memory};
use crate::store::error::StoreError;
use crate::store::format::PAGE;
use crate::store::media::VolatileMedia;
use crate::store::{Access, Store};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) states: u64,
    /// Of them, those with some of the unfenced lines and not all of them.
    pub(crate) partial: u64,
    /// Of them, those with several operations under way.
    pub(crate) amid: u64,
    /// Fences at which there were crashes.
    pub(crate) fences: u64,
    /// Crashes after which the pool was not only read, but used.
    pub(crate) used: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.states += other.states;
        self.partial += other.partial;
        self.amid += other.amid;
        self.fences += other.fences;
        self.used += other.used;
    }
}

/// An operation on a key whose effect may be what is found, and when it was begun and acknowledged.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// `None`: before the first one there was nothing.
    number: Option<usize>,
    begun: usize,
    acknowledged: Option<usize>,
}

/// For each key, the operations of which one must be the last that had an effect. One that was begun may be. One
/// that was acknowledged before another one began, which is acknowledged by now, cannot be.
#[derive(Debug)]
struct Allowed<'a> {
    operations: &'a [Operation],
    keys: Vec<Vec<Candidate>>,
    under_way: usize,
}

impl Allowed<'_> {
    fn apply(&mut self, at: usize, logged: &Logged) {
        let (Logged::Begin(number) | Logged::Acknowledge(number) | Logged::Undone(number)) =
            *logged
        else {
            return;
        };
        if matches!(logged, Logged::Begin(_)) {
            self.under_way += 1;
        } else {
            self.under_way -= 1;
        }
        let operation = &self.operations[number];
        let Some(key) = operation.key.filter(|_| !operation.refused) else {
            return;
        };
        let candidates = &mut self.keys[key];
        if matches!(logged, Logged::Begin(_)) {
            candidates.push(Candidate {
                number: Some(number),
                begun: at,
                acknowledged: None,
            });
            return;
        }
        if matches!(logged, Logged::Undone(_)) {
            candidates.retain(|candidate| candidate.number != Some(number));
            return;
        }
        let of_it = |candidate: &&mut Candidate| candidate.number == Some(number);
        let this = candidates.iter_mut().find(of_it).unwrap();
        this.acknowledged = Some(at);
        let begun = this.begun;
        candidates.retain(|other| other.acknowledged.is_none_or(|before| before > begun));
    }

    fn value(&self, candidate: &Candidate) -> Option<&Vec<u8>> {
        self.operations[candidate.number?].value.as_ref()
    }

    fn judge(&self, contents: &Contents) -> Result<(), String> {
        for (number, candidates) in self.keys.iter().enumerate() {
            let found = contents.get(&key(number));
            if candidates.iter().any(|one| self.value(one) == found) {
                continue;
            }
            let mut text = format!("neither the old nor the new contents of key{number}: ");
            text += &match found.map(|found| {
                let of_it = |operation: &Operation| operation.value.as_ref() == Some(found);
                self.operations.iter().position(of_it)
            }) {
                None => "there is nothing".to_owned(),
                Some(None) => "what nobody has put".to_owned(),
                Some(Some(number)) => format!("what operation {number} has put"),
            };
            for candidate in candidates {
                let told = match candidate.acknowledged {
                    Some(_) => "acknowledged",
                    None => "begun",
                };
                text += &match candidate.number {
                    None => ", expected nothing".to_owned(),
                    Some(number) => {
                        format!(
                            ", expected operation {number} of writer {}, {told}",
                            self.operations[number].writer
                        )
                    }
                };
            }
            return Err(text);
        }
        let known: Vec<_> = (0..self.keys.len()).map(key).collect();
        match contents.keys().find(|key| !known.contains(key)) {
            Some(key) => Err(format!("a key that nobody put: {}", key.escape_ascii())),
            None => Ok(()),
        }
    }
}

/// A pool file as a crash has left it, and what it must hold.
pub(crate) struct Crashes<'a> {
    history: &'a History,
    allowed: Allowed<'a>,
    power: Power,
    file: File,
    path: PathBuf,
    /// Hashes of the states seen since the last fence: each counts once.
    seen: HashSet<u64>,
    rng: SmallRng,
    pub(crate) count: Count,
}

impl Crashes<'_> {
    pub(crate) fn new(history: &History, scene: Scene, seed: u64) -> Crashes<'_> {
        let (file, path) = memory(&history.empty);
        let nothing = Candidate {
            number: None,
            begun: 0,
            acknowledged: Some(0),
        };
        Crashes {
            history,
            allowed: Allowed {
                operations: &history.operations,
                keys: vec![vec![nothing]; KEYS],
                under_way: 0,
            },
            power: Power::new(&history.empty, scene.capacity),
            file,
            path,
            seen: HashSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            count: Count::default(),
        }
    }

    /// Crashes at every fence and every acknowledgement: every prefix of the stores before it, and `samples` subsets
    /// of the lines that are not fenced for each of three likelihoods. What is wrong after the first that went wrong.
    pub(crate) fn replay(&mut self, scene: Scene, samples: usize) -> Result<(), String> {
        for (at, logged) in self.history.log.iter().enumerate() {
            self.allowed.apply(at, logged);
            let remains = match logged {
                Logged::Fence(_) => {
                    self.count.fences += 1;
                    // With several writers some stores before the last fence are not fenced yet.
                    let before = scene.writers > 1;
                    let all = 0..=self.power.stores();
                    let mut remains: Vec<_> = all.map(|n| self.power.prefix(n, before)).collect();
                    for likely in [5, 50, 95] {
                        let sampled =
                            (0..samples).map(|_| self.power.sample(&mut self.rng, likely));
                        remains.extend(sampled);
                    }
                    remains
                }
                Logged::Acknowledge(_) | Logged::Undone(_) => [0, 50, 100]
                    .map(|likely| self.power.sample(&mut self.rng, likely))
                    .into(),
                _ => Vec::new(),
            };
            for remains in remains {
                self.crash(&remains)
                    .map_err(|wrong| self.told(at, &remains, &wrong))?;
            }
            let settled = self.power.apply(logged);
            if matches!(logged, Logged::Fence(_)) {
                self.seen.clear();
                self.file.set_len(self.power.pages * PAGE).unwrap();
                self.restore(settled.into_iter());
            }
        }
        Ok(())
    }

    /// Where it went wrong, and what led there.
    fn told(&self, at: usize, remains: &Remains, wrong: &str) -> String {
        let events = &self.history.log[..=at];
        let mut text = format!("at event {at}, {}: {wrong}\nleft: {remains}", events[at]);
        for (at, logged) in events.iter().enumerate().skip(at.saturating_sub(24)) {
            text += &format!("\n{at:>6}  {logged}");
            if let Logged::Begin(number) = logged {
                let Operation {
                    writer, key, value, ..
                } = &self.history.operations[*number];
                let value = value.as_ref().map(Vec::len);
                text += &format!(" of writer {writer}, key {key:?}, bytes {value:?}");
            }
        }
        text
    }

    fn crash(&mut self, remains: &Remains) -> Result<(), String> {
        if !self.seen.insert(remains.fingerprint()) {
            return Ok(());
        }
        self.count.states += 1;
        self.count.partial += u64::from(remains.partial);
        self.count.amid += u64::from(self.allowed.under_way > 1);
        self.write(remains.lines.iter().map(|(line, bytes)| (*line, bytes)));
        let other_length = remains.pages != self.power.pages;
        if other_length {
            self.file.set_len(remains.pages * PAGE).unwrap();
        }
        let used = self.count.states % 64 == 0;
        self.count.used += u64::from(used);
        let verdict = self.recover(used);
        if used || other_length {
            self.file.write_all_at(&self.power.media, 0).unwrap();
            self.file.set_len(self.power.pages * PAGE).unwrap();
        } else {
            self.restore(remains.lines.iter().map(|(line, _)| *line));
        }
        verdict
    }

    /// Makes these lines of the file what is on the media for sure.
    fn restore(&self, lines: impl Iterator<Item = u64>) {
        let inside = lines.filter(|line| line * LINE < self.power.pages * PAGE);
        self.write(inside.map(|line| (line, self.power.sure(line))));
    }

    /// Writes lines, which are in order; those near each other at once, with what is between them for sure.
    fn write<'a>(&self, lines: impl Iterator<Item = (u64, &'a Line)>) {
        let (mut first, mut bytes) = (0, Vec::new());
        for (line, content) in lines {
            let (behind, at) = (first + bytes.len() as u64, line * LINE);
            if !bytes.is_empty() && at < behind + PAGE {
                bytes.extend_from_slice(&self.power.media[behind as usize..at as usize]);
            } else {
                self.file.write_all_at(&bytes, first).unwrap();
                first = at;
                bytes.clear();
            }
            bytes.extend_from_slice(content);
        }
        self.file.write_all_at(&bytes, first).unwrap();
    }

    /// Opens what is left, and looks whether it holds what is allowed; `used`, also that it can be filled to the
    /// last page without touching that.
    fn recover(&self, used: bool) -> Result<(), String> {
        let access = if used { Access::Write } else { Access::Read };
        let store = Store::open(&self.path, access, Some(Box::new(VolatileMedia)))
            .map_err(|e| e.to_string())?;
        if let Some(problem) = store.problems().first() {
            return Err(problem.to_string());
        }
        if let Some(note) = store.notes().first() {
            return Err(note.clone());
        }
        let found = |store: &Store| -> Contents {
            let all = store.scan(b"").into_iter();
            all.map(|(key, _)| {
                let value = store.get(&key).unwrap().unwrap().to_vec();
                (key.into_vec(), value)
            })
            .collect()
        };
        let contents = found(&store);
        self.allowed.judge(&contents)?;
        let extents: Vec<_> = store.scan(b"").iter().map(|(_, e)| e.extent).collect();
        if let Some(free) = extents
            .iter()
            .find(|extent| !store.space().is_used(**extent))
        {
            return Err(format!("pages of {free} are free, and of a live value"));
        }
        let (owned, usage) = (
            extents.iter().map(|e| e.len()).sum::<u64>(),
            store.space().usage(),
        );
        if usage.used != owned {
            return Err(format!(
                "{owned} pages have an owner, {} are used",
                usage.used
            ));
        }
        if used {
            let fill = |i: u32| store.put(format!("fill{i}").as_bytes(), b"in every free page");
            let full = (0..).map(fill).find_map(Result::err).unwrap();
            assert!(matches!(full, StoreError::Space(_)), "{full}");
            let mut after = found(&store);
            after.retain(|key, _| !key.starts_with(b"fill"));
            if after != contents {
                return Err("a live value was overwritten".to_owned());
            }
        }
        Ok(())
    }
}
