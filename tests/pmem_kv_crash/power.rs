//! Memory behind a cache, and what a power failure leaves of it.
//!
//! What was stored is in cache lines. A line goes to the media when the processor likes: at once, later,
//! after lines that were stored to later, or, if the power fails before, never. Only two things are sure.
//! Lines that were flushed are on the media after the next fence. And of several stores to one line the
//! later one is not there without the earlier one, but for the order of 8-byte words within one copy.
//!
//! Lengths and holes are the file system's. A hole is taken as a store of zeroes that nobody flushes; a
//! new length may go missing until a store behind the old end has been fenced: an `fdatasync` makes it
//! durable, and so does, with `MAP_SYNC`, the first touch of a new page.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::store::format::{DIRECTORY, PAGE};
use crate::store::mapping::Dirty;
use crate::store::media::{Event, Media};

pub(crate) const LINE: u64 = 64;
pub(crate) type Line = [u8; LINE as usize];

/// What happened to the pool file, in order.
#[derive(Debug)]
pub(crate) enum Logged {
    Store {
        at: u64,
        bytes: Box<[u8]>,
    },
    Zero(Range<u64>),
    Length(u64),
    Flush(Range<u64>),
    Fence,
    /// The operation with this number was begun, or acknowledged.
    Begin(usize),
    Acknowledge(usize),
}

/// What a store has forgotten to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgotten {
    RecordFlush,
    RecordFence,
    EntryFlush,
    EntryFence,
}

/// Media that note what they are told.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) log: Arc<Mutex<Vec<Logged>>>,
    pub(crate) forgotten: Option<Forgotten>,
    /// Whether the last flush was of a directory entry.
    pub(crate) entry: Mutex<bool>,
}

impl Media for Recorder {
    fn kind(&self) -> &'static str {
        "recorder"
    }

    fn flush(&self, dirty: &Dirty<'_>) -> io::Result<()> {
        let bytes = dirty.bytes();
        let entry = (DIRECTORY * PAGE..(DIRECTORY + 1) * PAGE).contains(&bytes.start);
        *self.entry.lock() = entry;
        let left_out = match self.forgotten {
            Some(Forgotten::RecordFlush) => !entry,
            Some(Forgotten::EntryFlush) => entry,
            _ => false,
        };
        if !left_out {
            self.log.lock().push(Logged::Flush(bytes));
        }
        Ok(())
    }

    fn fence(&self, _: &File) -> io::Result<()> {
        let left_out = match self.forgotten {
            Some(Forgotten::RecordFence) => !*self.entry.lock(),
            Some(Forgotten::EntryFence) => *self.entry.lock(),
            _ => false,
        };
        if !left_out {
            self.log.lock().push(Logged::Fence);
        }
        Ok(())
    }

    fn saw(&self, event: Event<'_>) {
        self.log.lock().push(match event {
            Event::Store { at, bytes } => Logged::Store {
                at,
                bytes: bytes.into(),
            },
            Event::Punch { pages } => Logged::Zero(pages.start() * PAGE..pages.end() * PAGE),
            Event::Length { pages } => Logged::Length(pages),
        });
    }
}

/// The lines of a file that are on the media, and those that may be.
#[derive(Debug)]
pub(crate) struct Power {
    /// What is on the media for sure; as long as the file can be.
    pub(crate) media: Vec<u8>,
    pub(crate) pages: u64,
    /// Line to its later versions, the first so many of which are flushed.
    pending: BTreeMap<u64, (Vec<Line>, usize)>,
    /// Later lengths, the first so many of which the next fence makes durable.
    lengths: (Vec<u64>, usize),
    /// How many versions each line had after each store since the last fence, to go back to.
    stores: Vec<Vec<(u64, usize)>>,
}

/// What a power failure has left: whole lines that differ from the sure ones, and the length.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) lines: Vec<(u64, Line)>,
    pub(crate) pages: u64,
    /// Of all lines that might be there some are and some are not.
    pub(crate) partial: bool,
}

impl Remains {
    pub(crate) fn fingerprint(&self) -> u64 {
        self.lines.iter().fold(self.pages, |print, (line, bytes)| {
            let line = line << 32 | u64::from(crc32c::crc32c(bytes));
            (print.rotate_left(5) ^ line).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }
}

impl Power {
    pub(crate) fn new(image: &[u8], capacity: u64) -> Power {
        let mut media = image.to_vec();
        media.resize((capacity * PAGE) as usize, 0);
        Power {
            media,
            pages: image.len() as u64 / PAGE,
            pending: BTreeMap::new(),
            lengths: (Vec::new(), 0),
            stores: Vec::new(),
        }
    }

    /// What is on the media for sure.
    pub(crate) fn sure(&self, line: u64) -> &Line {
        let at = (line * LINE) as usize;
        (&self.media[at..at + LINE as usize]).try_into().unwrap()
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let mut lines = Vec::new();
        for line in at / LINE..end.div_ceil(LINE) {
            let sure = *self.sure(line);
            let (versions, _) = self.pending.entry(line).or_default();
            let mut next = *versions.last().unwrap_or(&sure);
            let part = at.max(line * LINE)..end.min((line + 1) * LINE);
            let within = (part.start - line * LINE) as usize..(part.end - line * LINE) as usize;
            next[within]
                .copy_from_slice(&bytes[(part.start - at) as usize..(part.end - at) as usize]);
            if next != *versions.last().unwrap_or(&sure) {
                versions.push(next);
            }
            lines.push((line, versions.len()));
        }
        self.stores.push(lines);
        let shortest = self.lengths.0.iter().fold(self.pages, |a, b| a.min(*b));
        if end > shortest * PAGE {
            self.lengths.1 = self.lengths.0.len();
        }
    }

    fn length(&mut self, pages: u64) {
        let now = *self.lengths.0.last().unwrap_or(&self.pages);
        if pages < now {
            self.zero(&(pages * PAGE..now * PAGE));
        }
        self.lengths.0.push(pages);
    }

    fn zero(&mut self, bytes: &Range<u64>) {
        let (_, durable) = self.lengths;
        self.store(bytes.start, &vec![0; (bytes.end - bytes.start) as usize]);
        self.lengths.1 = durable;
    }

    fn flush(&mut self, bytes: &Range<u64>) {
        let lines = bytes.start / LINE..bytes.end.div_ceil(LINE);
        for (_, (versions, flushed)) in self.pending.range_mut(lines) {
            *flushed = versions.len();
        }
    }

    /// The lines that are sure now and were not before.
    fn fence(&mut self) -> Vec<u64> {
        let mut settled = Vec::new();
        for (line, (versions, flushed)) in &mut self.pending {
            if *flushed > 0 {
                let at = (line * LINE) as usize;
                self.media[at..at + LINE as usize].copy_from_slice(&versions[*flushed - 1]);
                versions.drain(..*flushed);
                *flushed = 0;
                settled.push(*line);
            }
        }
        self.pending.retain(|_, (versions, _)| !versions.is_empty());
        if let Some(last) = self.lengths.1.checked_sub(1) {
            self.pages = self.lengths.0[last];
            self.lengths.0.drain(..=last);
            self.lengths.1 = 0;
        }
        self.stores.clear();
        settled
    }

    /// Does what was logged; the lines that are sure by that.
    pub(crate) fn apply(&mut self, logged: &Logged) -> Vec<u64> {
        match logged {
            Logged::Store { at, bytes } => self.store(*at, bytes),
            Logged::Zero(bytes) => self.zero(bytes),
            Logged::Length(pages) => self.length(*pages),
            Logged::Flush(bytes) => self.flush(bytes),
            Logged::Fence => return self.fence(),
            Logged::Begin(_) | Logged::Acknowledge(_) => {}
        }
        Vec::new()
    }

    /// How many stores there were since the last fence.
    pub(crate) fn stores(&self) -> usize {
        self.stores.len()
    }

    fn remains(&self, pages: u64, mut pick: impl FnMut(u64, &[Line]) -> Option<Line>) -> Remains {
        let (mut there, mut missing, mut lines) = (false, false, Vec::new());
        for (line, (versions, _)) in &self.pending {
            let sure = *self.sure(*line);
            let picked = pick(*line, versions).unwrap_or(sure);
            there |= picked != sure;
            missing |= picked != *versions.last().unwrap_or(&sure);
            if picked != sure && line * LINE < pages * PAGE {
                lines.push((*line, picked));
            }
        }
        Remains {
            lines,
            pages,
            partial: there && missing,
        }
    }

    /// The first `stores` of those since the last fence, wholly, and nothing else.
    pub(crate) fn prefix(&self, stores: usize) -> Remains {
        let mut there = BTreeMap::new();
        for lines in &self.stores[..stores] {
            there.extend(lines.iter().copied());
        }
        let pages = *self.lengths.0.last().unwrap_or(&self.pages);
        self.remains(pages, |line, versions| {
            let count = there.get(&line).copied().unwrap_or(0);
            count.checked_sub(1).map(|last| versions[last])
        })
    }

    /// Some version of each line; the later ones are the likelier, the greater `likely` of 100 is.
    pub(crate) fn sample(&self, rng: &mut SmallRng, likely: u32) -> Remains {
        let length = rng.random_range(0..=self.lengths.0.len());
        let pages = length
            .checked_sub(1)
            .map_or(self.pages, |last| self.lengths.0[last]);
        self.remains(pages, |line, versions| {
            let mut picked = *self.sure(line);
            for next in versions {
                if rng.random_range(0..100) < likely {
                    picked = *next;
                    continue;
                }
                // Caught in the middle of a copy: some of its words are there.
                if rng.random_range(0..4) == 0 {
                    for (word, new) in picked.chunks_exact_mut(8).zip(next.chunks_exact(8)) {
                        if rng.random() {
                            word.copy_from_slice(new);
                        }
                    }
                }
                break;
            }
            Some(picked)
        })
    }
}
