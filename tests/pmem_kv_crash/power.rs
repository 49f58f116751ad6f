//! Memory behind a cache, and what a power failure leaves of it.
//!
//! What was stored is in cache lines. A line goes to the media when the processor likes: at once, later,
//! after lines that were stored to later, or, if the power fails before, never. Only two things are sure.
//! Lines that a thread has flushed are on the media after the next fence of that thread; another thread's fence
//! waits for nothing of it. And of several stores to one line the later one is not there without the earlier
//! one, but for the order of 8-byte words within one copy.
//!
//! Lengths and holes are the file system's. A hole is taken as a store of zeroes that nobody flushes; a
//! new length may go missing until a flush of something behind the old end has been fenced: an `fdatasync` makes
//! it durable, and so does, with `MAP_SYNC`, the first touch of a new page.
//!
//! Before the power fails the process may be killed, or fail to sync the file, and others may go on with what it has
//! left. They see all that it stored, on the media or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::store::format::PAGE;

pub(crate) const LINE: u64 = 64;
pub(crate) type Line = [u8; LINE as usize];

/// Whose flushes a fence waits for: a thread's, or those of one sync of the file.
pub(crate) type Who = u64;

/// What happened to the pool file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    Store {
        at: u64,
        bytes: Box<[u8]>,
    },
    Zero(Range<u64>),
    Length(u64),
    Flush(Who, Range<u64>),
    Fence(Who),
    /// The process is gone, and its fences with it. What it stored is there for the next one to see.
    Killed,
    /// A sync of the file has failed: what it was to take along no later one will, the kernel calls the pages clean.
    Failed,
    /// The operation with this number was begun, or acknowledged, or it has had no effect and will not.
    Begin(usize),
    Acknowledge(usize),
    Undone(usize),
}

/// As [`Logged`], without the bytes.
impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Logged::Store { at, bytes } => write!(f, "Store({at}, {} bytes)", bytes.len()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What a line may be, and is not for sure.
#[derive(Debug, Default)]
struct Pending {
    /// One after each store to it.
    versions: Vec<Line>,
    /// Who has flushed it, and how many of the versions that was.
    flushed: Vec<(Who, usize)>,
}

/// The lines of a file that are on the media, and those that may be.
#[derive(Debug)]
pub(crate) struct Power {
    /// What is on the media for sure; as long as the file can be.
    pub(crate) media: Vec<u8>,
    pub(crate) pages: u64,
    pending: BTreeMap<u64, Pending>,
    /// Later lengths, and how many of them somebody's next fence makes durable.
    lengths: Vec<u64>,
    flushed: Vec<(Who, usize)>,
    /// Pages that no flush takes along until they are stored to again.
    clean: BTreeSet<u64>,
    /// How many versions each line had at the last fence, and after each store since then, to go back to.
    before: Vec<(u64, usize)>,
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

/// The length, and which lines are not as they are for sure: page and lines in it.
impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.pages)?;
        for lines in self
            .lines
            .chunk_by(|(a, _), (b, _)| a * LINE / PAGE == b * LINE / PAGE)
        {
            let within: Vec<u64> = lines.iter().map(|(line, _)| line % (PAGE / LINE)).collect();
            write!(f, "; of page {} {within:?}", lines[0].0 * LINE / PAGE)?;
        }
        Ok(())
    }
}

/// Notes that `who` has flushed that much.
fn note(flushed: &mut Vec<(Who, usize)>, who: Who, count: usize) {
    flushed.retain(|(other, _)| *other != who);
    flushed.push((who, count));
}

/// How much `who` has flushed; from here on that is nothing, and what others have is less by as much.
fn settle(flushed: &mut Vec<(Who, usize)>, who: Who) -> Option<usize> {
    let (_, settled) = *flushed.iter().find(|(other, _)| *other == who)?;
    flushed.retain_mut(|(_, count)| {
        *count = count.saturating_sub(settled);
        *count > 0
    });
    Some(settled)
}

impl Power {
    pub(crate) fn new(image: &[u8], capacity: u64) -> Power {
        let mut media = image.to_vec();
        media.resize((capacity * PAGE) as usize, 0);
        Power {
            media,
            pages: image.len() as u64 / PAGE,
            pending: BTreeMap::new(),
            lengths: Vec::new(),
            flushed: Vec::new(),
            clean: BTreeSet::new(),
            before: Vec::new(),
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
        for page in at / PAGE..end.div_ceil(PAGE) {
            self.clean.remove(&page);
        }
        let mut lines = Vec::new();
        for line in at / LINE..end.div_ceil(LINE) {
            let sure = *self.sure(line);
            let versions = &mut self.pending.entry(line).or_default().versions;
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
    }

    fn length(&mut self, pages: u64) {
        let now = *self.lengths.last().unwrap_or(&self.pages);
        if pages < now {
            self.zero(&(pages * PAGE..now * PAGE));
        }
        self.lengths.push(pages);
    }

    fn zero(&mut self, bytes: &Range<u64>) {
        self.store(bytes.start, &vec![0; (bytes.end - bytes.start) as usize]);
    }

    fn flush(&mut self, who: Who, bytes: &Range<u64>) {
        let lines = bytes.start / LINE..bytes.end.div_ceil(LINE);
        for (line, Pending { versions, flushed }) in self.pending.range_mut(lines) {
            if !versions.is_empty() && !self.clean.contains(&(line * LINE / PAGE)) {
                note(flushed, who, versions.len());
            }
        }
        let shortest = self.lengths.iter().fold(self.pages, |a, b| a.min(*b));
        if bytes.end > shortest * PAGE && !self.lengths.is_empty() {
            note(&mut self.flushed, who, self.lengths.len());
        }
    }

    /// The lines that are sure now and were not before.
    fn fence(&mut self, who: Who) -> Vec<u64> {
        let mut settled = Vec::new();
        for (line, Pending { versions, flushed }) in &mut self.pending {
            if let Some(count) = settle(flushed, who) {
                let at = (line * LINE) as usize;
                self.media[at..at + LINE as usize].copy_from_slice(&versions[count - 1]);
                versions.drain(..count);
                settled.push(*line);
            }
        }
        self.pending
            .retain(|_, pending| !pending.versions.is_empty());
        if let Some(count) = settle(&mut self.flushed, who) {
            self.pages = self.lengths[count - 1];
            self.lengths.drain(..count);
        }
        let count = |(line, pending): (&u64, &Pending)| (*line, pending.versions.len());
        self.before = self.pending.iter().map(count).collect();
        self.stores.clear();
        settled
    }

    fn forget_flushes(&mut self) {
        self.flushed.clear();
        for pending in self.pending.values_mut() {
            pending.flushed.clear();
        }
    }

    /// Does what was logged; the lines that are sure by that.
    pub(crate) fn apply(&mut self, logged: &Logged) -> Vec<u64> {
        match logged {
            Logged::Store { at, bytes } => self.store(*at, bytes),
            Logged::Zero(bytes) => self.zero(bytes),
            Logged::Length(pages) => self.length(*pages),
            Logged::Flush(who, bytes) => self.flush(*who, bytes),
            Logged::Fence(who) => return self.fence(*who),
            Logged::Killed => self.forget_flushes(),
            Logged::Failed => {
                self.forget_flushes();
                let pages = self.pending.keys().map(|line| line * LINE / PAGE);
                self.clean = pages.collect();
            }
            Logged::Begin(_) | Logged::Acknowledge(_) | Logged::Undone(_) => {}
        }
        Vec::new()
    }

    /// How many stores there were since the last fence.
    pub(crate) fn stores(&self) -> usize {
        self.stores.len()
    }

    fn remains(&self, pages: u64, mut pick: impl FnMut(u64, &[Line]) -> Option<Line>) -> Remains {
        let (mut there, mut missing, mut lines) = (false, false, Vec::new());
        for (line, Pending { versions, .. }) in &self.pending {
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

    /// The first `stores` of those since the last fence, wholly, and of those before all or none.
    pub(crate) fn prefix(&self, stores: usize, before: bool) -> Remains {
        let mut there = BTreeMap::new();
        if before {
            there.extend(self.before.iter().copied());
        }
        for lines in &self.stores[..stores] {
            there.extend(lines.iter().copied());
        }
        let pages = *self.lengths.last().unwrap_or(&self.pages);
        self.remains(pages, |line, versions| {
            let count = there.get(&line).copied().unwrap_or(0);
            count.checked_sub(1).map(|last| versions[last])
        })
    }

    /// Some version of each line; the later ones are the likelier, the greater `likely` of 100 is.
    pub(crate) fn sample(&self, rng: &mut SmallRng, likely: u32) -> Remains {
        let length = rng.random_range(0..=self.lengths.len());
        let pages = length
            .checked_sub(1)
            .map_or(self.pages, |last| self.lengths[last]);
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
