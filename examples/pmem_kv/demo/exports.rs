//! The exporters of the demo: values to files and back, while everything else goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::run::{Run, add};
use crate::store::error::StoreError;
use crate::store::transfer::{Device, Transfers};

/// Transfers that an io_uring has under way at a time, as a storage engine's would.
pub(super) const DEPTH: u64 = 32;
/// So many threads do it, one transfer each, where there is no io_uring.
pub(super) const THREADS: usize = 4;

/// What one of the places in the queue is about.
#[derive(Clone, Copy)]
enum Step {
    Export {
        key: usize,
        from: u64,
        to: u64,
    },
    /// Of a file that holds that generation of that key.
    Import {
        key: usize,
        generation: u64,
    },
}

impl Run<'_> {
    /// Exports values, compares each file with what the key held, and imports some of them again, under
    /// other names.
    pub(super) fn exporter(
        &self,
        me: usize,
        device: Device,
        folder: &Path,
    ) -> Result<(), StoreError> {
        let mut rng = SmallRng::seed_from_u64(2000 + me as u64);
        let mut transfers = Transfers::new(self.store, device)?;
        let depth = if transfers.is_async() { DEPTH } else { 1 };
        let file = |tag: u64| -> PathBuf { folder.join(format!("export-{me}-{tag}")) };
        let name = |tag: u64| format!("imported/{me}-{tag}");
        let mut steps: Vec<Option<Step>> = vec![None; depth as usize];
        loop {
            for tag in 0..depth {
                while steps[tag as usize].is_none() && !self.stopped() {
                    let key = self.pick(&mut rng);
                    let from = self.keys[key].acked();
                    let begun =
                        transfers.export(tag, self.corpus.key(key).as_bytes(), &file(tag))?;
                    let to = self.keys[key].begun.load(Ordering::Acquire);
                    steps[tag as usize] = begun.then_some(Step::Export { key, from, to });
                }
            }
            let Some(done) = transfers.next()? else {
                return Ok(());
            };
            let bytes = done.outcome?;
            let step = steps[done.tag as usize].take();
            match step {
                Some(Step::Export { key, from, to }) => {
                    add(&self.counts.exports, 1);
                    add(&self.counts.exported, bytes);
                    let right = self.compare(key, &file(done.tag), from, to);
                    // Every other one goes back in.
                    if let (Some(generation), true) = (right, rng.random()) {
                        let name = name(done.tag);
                        transfers.import(done.tag, &file(done.tag), name.as_bytes())?;
                        steps[done.tag as usize] = Some(Step::Import { key, generation });
                    }
                }
                Some(Step::Import { key, generation }) => {
                    add(&self.counts.imports, 1);
                    add(&self.counts.imported, bytes);
                    let name = name(done.tag);
                    let value = self.store.get(name.as_bytes())?;
                    let found = value.map(|value| self.corpus.verify(key, &value));
                    if found != Some(Ok(generation)) {
                        add(&self.counts.wrong_imports, 1);
                        self.fault(format!("{name}: {found:?}, expected {generation}"));
                    }
                    self.imports.lock().insert(name, (key, generation));
                }
                None => {}
            }
        }
    }

    /// The generation of `key` that the file holds, if that is one which it may hold.
    fn compare(&self, key: usize, file: &Path, from: u64, to: u64) -> Option<u64> {
        let name = self.corpus.key(key);
        let found = fs::read(file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| self.corpus.verify(key, &bytes));
        let wrong = match found {
            Ok(generation) if (from..=to).contains(&generation) => return Some(generation),
            Ok(generation) => format!("{name}: generation {generation}, expected {from} to {to}"),
            Err(wrong) => wrong,
        };
        add(&self.counts.wrong_exports, 1);
        self.fault(format!("exported: {wrong}"));
        None
    }
}
