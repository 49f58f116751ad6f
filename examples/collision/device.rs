//! The device: reads a file into pages of the mapping, with io_uring, several at a time.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;

use io_uring::{IoUring, opcode, squeue, types};
use layout_lease::{PagePin, PageRange};
use rand::Rng;
use rand::rngs::SmallRng;
use rustix::fs::{Advice, fadvise, fstatfs};
use tempfile::NamedTempFile;

use crate::arena::{BLOCK, Buffer, WORDS};
use crate::{Outcome, PAGES, Scene};

/// Requests in flight.
const DEPTH: usize = 8;

/// The most pages that one request reads.
const LONGEST: u64 = 16;

/// The file that is read. It is really written: a file that is only allocated has no blocks to read, so
/// its reads are answered with zeroes, by copying, and pin nothing.
pub(crate) struct Source {
    file: File,
    blocks: u64,
    /// Whether the device itself writes to our pages, and not a thread of the kernel that copies.
    pub(crate) direct: bool,
    _named: NamedTempFile,
}

impl Source {
    pub(crate) fn new(dir: &Path) -> io::Result<Source> {
        let named = NamedTempFile::new_in(dir)?;
        let blocks = 4096;
        for block in 0..blocks {
            let words = (0..WORDS).flat_map(|n| word(block, n).to_ne_bytes());
            let bytes: Vec<u8> = words.collect();
            named.as_file().write_all_at(&bytes, block * BLOCK as u64)?;
        }
        named.as_file().sync_all()?;
        // Read from the medium, not from memory.
        fadvise(&named, 0, None, Advice::DontNeed)?;
        let o_direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(o_direct)
            .open(named.path());
        // In memory there is nothing to read from but memory, whatever the flag says.
        const TMPFS: u64 = 0x0102_1994;
        let in_memory = fstatfs(&named)?.f_type as u64 == TMPFS;
        let (file, direct) = match opened {
            Ok(file) => (file, !in_memory),
            Err(_) => (File::open(named.path())?, false),
        };
        Ok(Source {
            file,
            blocks,
            direct,
            _named: named,
        })
    }
}

/// The word at place `n` of a block of the source.
fn word(block: u64, n: usize) -> u64 {
    0x5eed_0000_0000_0000 | (block << 16) | n as u64
}

/// Whether it is the word at place `n` of some block of the source. Which one is not asked: pins do not
/// exclude each other, and two reads into one page may mix.
fn is_read(n: usize, word: u64) -> bool {
    word >> 48 == 0x5eed && word & 0xffff == n as u64
}

/// What a device has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// Bytes that somebody else wrote to a block while this request had it.
    pub(crate) lost: u64,
}

/// A read in flight. The pin belongs to the request, and goes when its completion has come.
struct Request {
    pin: PagePin,
    blocks: Vec<u64>,
    buffers: Box<[Buffer]>,
    /// The first block of the source.
    from: u64,
}

impl Request {
    /// Pins some pages, and then looks up their blocks; not the other way round. `None`: they are being
    /// broken, or are a hole now.
    fn new(scene: &Scene, random: &mut SmallRng) -> Option<Request> {
        let start = random.random_range(0..PAGES);
        let end = PAGES.min(start + random.random_range(1..=LONGEST));
        let pages = PageRange::new(start, end).ok()?;
        let pin = scene.pin(pages)?;
        let map = scene.guard.map();
        let blocks: Option<Vec<u64>> = (start..end).map(|page| map.lookup(page)).collect();
        let blocks = blocks?;
        let buffers = blocks
            .iter()
            .map(|&block| scene.arena.buffer(block))
            .collect();
        let from = random.random_range(0..scene.source.blocks - LONGEST);
        Some(Request {
            pin,
            blocks,
            buffers,
            from,
        })
    }

    /// It is complete: under the pin, there is what was read, and nothing else.
    fn finish(self, scene: &Scene, answer: i32, reads: &mut Reads) -> io::Result<()> {
        let bytes = self.blocks.len() * BLOCK;
        if answer < 0 {
            return Err(io::Error::from_raw_os_error(-answer));
        }
        if answer as usize != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for &block in &self.blocks {
            reads.lost += scene.arena.wrong(block, is_read);
        }
        reads.requests += 1;
        reads.bytes += bytes as u64;
        match scene.lose_one.swap(false, Ordering::Relaxed) {
            true => std::mem::forget(self.pin), // the mistake
            false => drop(self.pin),
        }
        Ok(())
    }
}

/// Reads until it is over, and then until nothing is in flight.
pub(crate) fn run(scene: &Scene, random: &mut SmallRng) -> Outcome<Reads> {
    let mut ring = IoUring::new(DEPTH as u32).map_err(|e| format!("io_uring: {e}"))?;
    let mut requests: [Option<Request>; DEPTH] = Default::default();
    let mut reads = Reads::default();
    let mut failed = None;
    loop {
        let over = scene.over.load(Ordering::Relaxed) || failed.is_some();
        for (n, place) in requests.iter_mut().enumerate() {
            if over || place.is_some() {
                continue;
            }
            let Some(request) = Request::new(scene, random) else {
                break;
            };
            let entry = entry(scene, &request, n as u64);
            *place = Some(request);
            // SAFETY: the buffers lie in the arena, which is never unmapped, and the list of them stays
            // in `requests` until the completion has come. (What the device does to the *contents* of
            // blocks that are freed meanwhile is the subject of this program; they are atomics.)
            unsafe { ring.submission().push(&entry) }.map_err(|e| format!("io_uring: {e}"))?;
        }
        if requests.iter().all(Option::is_none) {
            if over {
                return failed.map_or(Ok(reads), |e: io::Error| Err(e.into()));
            }
            // The pages are being broken, or freed, or not allocated again yet.
            thread::yield_now();
            continue;
        }
        match ring.submit_and_wait(1) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        for completion in ring.completion() {
            let request = requests[completion.user_data() as usize].take();
            let request = request.ok_or("a completion of no request")?;
            let done = request.finish(scene, completion.result(), &mut reads);
            failed = failed.or(done.err());
        }
    }
}

fn entry(scene: &Scene, request: &Request, number: u64) -> squeue::Entry {
    let file = types::Fd(scene.source.file.as_raw_fd());
    let buffers = request.buffers.as_ptr().cast();
    let read = opcode::Readv::new(file, buffers, request.buffers.len() as u32)
        .offset(request.from * BLOCK as u64)
        .build()
        .user_data(number);
    if scene.source.direct {
        read
    } else {
        // Else it would be done before the call returns: never in flight.
        read.flags(squeue::Flags::ASYNC)
    }
}
