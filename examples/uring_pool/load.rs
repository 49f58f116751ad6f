//! The load: direct reads and writes of a file and messages from clients, all of them stamped, and all of
//! them compared; and clients that change their minds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use io_uring::squeue::Flags;
use rand::Rng;
use rand::rngs::SmallRng;
use rustix::fs::{Advice, fadvise, fstatfs};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::Outcome;
use crate::pool::{Handle, Op, Pool};
use crate::ring::{Memory, PAGE, PAGES, WORDS};

/// A record is what one request reads or writes: as many bytes as a buffer has.
const RECORDS: usize = 1024;

const RECORD: usize = PAGES as usize * PAGE;

/// Clients who may send a message. The first one never does: only a cancellation ends a request for it.
const CLIENTS: usize = 4;

/// What a buffer has in it before it is read into.
const POISON: u64 = 0x0bad_0bad_0bad_0bad;

/// The word at place `n` of page `page` of the file, as of this version of its record.
fn word(version: u64, page: u64, n: usize) -> u64 {
    version << 40 | page << 16 | n as u64
}

fn version_of(word: u64) -> u64 {
    word >> 40
}

/// The word at place `n` of a message.
fn message(n: usize) -> u64 {
    0xabcd_0000_0000_0000 | n as u64
}

/// What the file may have in it. A write that was cancelled may have been done, or not.
struct Record {
    oldest: u64,
    newest: u64,
    busy: bool,
}

struct Client {
    sends: UnixDatagram,
    heard: UnixDatagram,
    busy: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) messages: u64,
    /// Bytes that were not what had been written; bytes that others put into a buffer that was being
    /// written from; bytes of messages.
    pub(crate) misread: u64,
    pub(crate) overwritten: u64,
    pub(crate) garbled: u64,
}

pub(crate) struct Load {
    memory: Arc<Memory>,
    random: SmallRng,
    file: File,
    named: NamedTempFile,
    /// Whether the device itself reads and writes our pages, and not a thread of the kernel that copies.
    pub(crate) direct: bool,
    records: Vec<Record>,
    clients: Vec<Client>,
    handles: Vec<Handle>,
    pub(crate) traffic: Traffic,
}

impl Load {
    pub(crate) fn new(dir: &Path, memory: Arc<Memory>, random: SmallRng) -> io::Result<Load> {
        let named = NamedTempFile::new_in(dir)?;
        let pages = (RECORDS as u64) * PAGES;
        for page in 0..pages {
            let words = (0..WORDS).flat_map(|n| word(1, page, n).to_ne_bytes());
            let bytes: Vec<u8> = words.collect();
            named.as_file().write_all_at(&bytes, page * PAGE as u64)?;
        }
        named.as_file().sync_all()?;
        fadvise(&named, 0, None, Advice::DontNeed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let o_direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let opened = options.clone().custom_flags(o_direct).open(named.path());
        // In memory there is nothing to read from but memory, whatever the flag says.
        const TMPFS: u64 = 0x0102_1994;
        let in_memory = fstatfs(&named)?.f_type as u64 == TMPFS;
        let (file, direct) = match opened {
            Ok(file) => (file, !in_memory),
            Err(_) => (options.open(named.path())?, false),
        };
        let clients = (0..CLIENTS).map(|_| {
            let (sends, heard) = UnixDatagram::pair()?;
            sends.set_nonblocking(true)?;
            Ok(Client {
                sends,
                heard,
                busy: false,
            })
        });
        let record = || Record {
            oldest: 1,
            newest: 1,
            busy: false,
        };
        Ok(Load {
            memory,
            random,
            file,
            named,
            direct,
            records: (0..RECORDS).map(|_| record()).collect(),
            clients: clients.collect::<io::Result<_>>()?,
            handles: Vec::new(),
            traffic: Traffic::default(),
        })
    }

    /// Gives every idle buffer something to do; clients cancel, go away, and send.
    pub(crate) fn go_on(&mut self, pool: &mut Pool<'_>) -> Outcome<()> {
        for n in pool.idle().collect::<Vec<_>>() {
            self.start(pool, n)?;
        }
        self.handles.retain(|handle| !handle.is_done());
        if !self.handles.is_empty() && self.random.random_ratio(1, 4) {
            let one = self.random.random_range(0..self.handles.len());
            let handle = self.handles.swap_remove(one);
            self.change_mind(pool, handle)?;
        }
        if self.random.random_ratio(1, 4) {
            let one = self.random.random_range(1..CLIENTS);
            let words = (0..WORDS).flat_map(|n| message(n).to_ne_bytes());
            match self.clients[one].sends.send(&words.collect::<Vec<u8>>()) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn start(&mut self, pool: &mut Pool<'_>, n: usize) -> io::Result<()> {
        let mut flags = Flags::empty();
        // Without a device it would be done before the call returns: never in flight. And with one, some go
        // through the kernel's queue, where they can still be cancelled.
        if !self.direct || self.random.random_ratio(1, 4) {
            flags = Flags::ASYNC;
        }
        let first = n as u64 * PAGES;
        let memory = Arc::clone(&self.memory);
        let poison = || (0..PAGES).for_each(|i| memory.fill(first + i, |_| POISON));
        let record = self.random.random_range(0..RECORDS);
        let client = self.clients.iter().position(|client| !client.busy);
        let version = self.records[record].newest + 1;
        let op = match (self.random.random_range(0..10), client) {
            (0, Some(client)) => Op::Listen { client },
            _ if self.records[record].busy => return Ok(()),
            (0..5, _) => Op::Write { record, version },
            _ => Op::Read { record },
        };
        let place = (self.file.as_fd(), (record * RECORD) as u64);
        let started = match op {
            Op::Listen { client } => {
                let heard = self.clients[client].heard.as_fd();
                pool.start(n, op, (heard, 0), flags, poison)?
            }
            Op::Read { .. } => pool.start(n, op, place, flags, poison)?,
            Op::Write { .. } => {
                let stamp = || {
                    for i in 0..PAGES {
                        let page = record as u64 * PAGES + i;
                        memory.fill(first + i, |n| word(version, page, n));
                    }
                };
                pool.start(n, op, place, flags, stamp)?
            }
        };
        let Some(handle) = started else {
            return Ok(()); // its pages are being broken
        };
        match op {
            Op::Listen { client } => self.clients[client].busy = true,
            Op::Read { .. } => self.records[record].busy = true,
            Op::Write { .. } => {
                self.records[record].busy = true;
                self.records[record].newest = version;
            }
        }
        match self.random.random_ratio(1, 4) {
            true => self.change_mind(pool, handle)?,
            false => self.handles.push(handle),
        }
        Ok(())
    }

    /// The client cancels, or goes away.
    fn change_mind(&mut self, pool: &mut Pool<'_>, handle: Handle) -> io::Result<()> {
        if self.random.random() {
            pool.cancel(&handle)?;
            self.handles.push(handle);
        } else {
            pool.forget(handle);
        }
        Ok(())
    }

    /// A request with buffer `n` is complete, and still pinned: compares. Whether it was ended early.
    pub(crate) fn finish(
        &mut self,
        n: usize,
        op: Op,
        answer: i32,
        cancelled: bool,
    ) -> Outcome<bool> {
        let wanted = match op {
            Op::Listen { .. } => PAGE,
            _ => RECORD,
        };
        let early = match usize::try_from(answer) {
            Ok(bytes) if bytes == wanted => false,
            Ok(_) if cancelled => true,
            Ok(bytes) => return Err(format!("{op:?}: {bytes} bytes").into()),
            Err(_) => {
                let error = io::Error::from_raw_os_error(-answer);
                // FAULT: when it was about to begin, its buffer had been deregistered already.
                let stopped = [Errno::CANCELED, Errno::INTR, Errno::FAULT];
                let stopped = stopped.map(|e| Some(e.raw_os_error()));
                if !cancelled || !stopped.contains(&error.raw_os_error()) {
                    return Err(format!("{op:?}: {error}").into());
                }
                true
            }
        };
        let first = n as u64 * PAGES;
        let memory = &self.memory;
        match op {
            Op::Listen { client } => {
                self.clients[client].busy = false;
                if !early {
                    self.traffic.messages += 1;
                    self.traffic.garbled += memory.wrong(first, WORDS, message);
                }
            }
            Op::Read { record } => {
                let Record { oldest, newest, .. } = self.records[record];
                self.records[record].busy = false;
                if early {
                    return Ok(true);
                }
                self.traffic.reads += 1;
                for i in 0..PAGES {
                    let page = record as u64 * PAGES + i;
                    let version = version_of(memory.first(first + i)).clamp(oldest, newest);
                    let right = |n| word(version, page, n);
                    self.traffic.misread += memory.wrong(first + i, WORDS, right);
                }
            }
            Op::Write { record, version } => {
                self.records[record].busy = false;
                for i in 0..PAGES {
                    let page = record as u64 * PAGES + i;
                    let right = |n| word(version, page, n);
                    self.traffic.overwritten += memory.wrong(first + i, WORDS, right);
                }
                if !early {
                    self.traffic.writes += 1;
                    self.records[record].oldest = version;
                }
            }
        }
        Ok(early)
    }

    /// Compares the whole file with what it should be. How many bytes are wrong.
    pub(crate) fn check_file(&self) -> io::Result<u64> {
        let mut wrong = 0;
        let mut bytes = vec![0; PAGE];
        for (record, Record { oldest, newest, .. }) in self.records.iter().enumerate() {
            for i in 0..PAGES {
                let page = record as u64 * PAGES + i;
                let file = self.named.as_file();
                file.read_exact_at(&mut bytes, page * PAGE as u64)?;
                let words = bytes.chunks_exact(8);
                let words = words.map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
                let words: Vec<u64> = words.collect();
                let version = version_of(words[0]).clamp(*oldest, *newest);
                let stray = |(n, w): &(usize, &u64)| **w != word(version, page, *n);
                wrong += 8 * words.iter().enumerate().filter(stray).count() as u64;
            }
        }
        Ok(wrong)
    }
}
