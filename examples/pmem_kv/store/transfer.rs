//! Values to files and back, by a device that works on the mapping itself: `export` and `import`.
//!
//! The device is an io_uring with `O_DIRECT`; where that is refused, `pwrite` and `pread` by the caller's
//! thread. Several transfers may be under way; each has a tag of the caller's choice.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::error::{Doing, StoreError};
use super::format::PAGE;
use super::mapping::{Landed, Lent, Ring};
use super::space::Space;
use super::write::Fresh;
use super::{Store, Value};

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// An io_uring, or else what is left.
    Any,
    Uring,
    /// The thread that asks, with `pwrite` and `pread`.
    Thread,
}

/// Transfers under way.
#[derive(Debug)]
pub(crate) struct Transfers<'s> {
    store: &'s Store,
    ring: Option<Ring<'s, Space>>,
    jobs: HashMap<u64, Job<'s>>,
    done: VecDeque<Done>,
    device: String,
    /// Transfers of files whose file system refuses `O_DIRECT`.
    buffered: u64,
}

#[derive(Debug)]
struct Job<'s> {
    tag: u64,
    /// Bytes of the value.
    len: usize,
    /// Bytes that are over.
    at: usize,
    /// Where an import goes.
    import: Option<(Vec<u8>, Fresh<'s>)>,
}

/// A transfer that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) tag: u64,
    /// The bytes of the value.
    pub(crate) outcome: Result<u64, StoreError>,
}

/// More than anybody has under way at a time.
const ENTRIES: u32 = 64;

impl<'s> Transfers<'s> {
    pub(crate) fn new(store: &'s Store, device: Device) -> Result<Transfers<'s>, StoreError> {
        let ring = match device {
            Device::Thread => Err(io::Error::other("not asked for")),
            Device::Any | Device::Uring => Ring::new(&store.guard, ENTRIES),
        };
        let (ring, device) = match ring {
            Ok(ring) => (Some(ring), "io_uring".to_owned()),
            Err(e) if device == Device::Uring => return Err(e).doing("setting up an io_uring"),
            Err(e) => (None, format!("pwrite and pread (io_uring: {e})")),
        };
        Ok(Transfers {
            store,
            ring,
            jobs: HashMap::new(),
            done: VecDeque::new(),
            device,
            buffered: 0,
        })
    }

    /// What moves the bytes, and why not something better.
    pub(crate) fn device(&self) -> String {
        let how = if self.buffered > 0 {
            "without O_DIRECT, which the file system refuses"
        } else {
            "O_DIRECT"
        };
        format!("{}, {how}", self.device)
    }

    /// Whether several transfers can be under way at a time.
    pub(crate) fn is_async(&self) -> bool {
        self.ring.is_some()
    }

    /// Begins to write the value of `key` to a new file; `false` if there is no such key.
    ///
    /// The value is what it is now, whatever happens to the key until the device has done.
    #[track_caller]
    pub(crate) fn export(&mut self, tag: u64, key: &[u8], to: &Path) -> Result<bool, StoreError> {
        let Some(Value { record, len }) = self.store.get(key)? else {
            return Ok(false);
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = self.direct(&mut options, to, "opening the file to export to")?;
        self.store.empty(&file, to)?;
        let job = Job {
            tag,
            len,
            at: 0,
            import: None,
        };
        self.go_on(job, file, Lent::Out(record));
        Ok(true)
    }

    /// Begins to read a file as the new value of `key`.
    pub(crate) fn import(&mut self, tag: u64, from: &Path, key: &[u8]) -> Result<(), StoreError> {
        self.store.may_write(key)?;
        let mut options = OpenOptions::new();
        let file = self.direct(options.read(true), from, "opening the file to import")?;
        let about = file.metadata().doing("asking for the file's length")?;
        if !about.is_file() {
            let path = from.to_owned();
            return Err(StoreError::NoRegularFile { path });
        }
        let len = about.len();
        let mut fresh = self.store.reserve(key.len(), len)?;
        let Some(filling) = fresh.filling.take() else {
            unreachable!("fresh pages are not filled yet");
        };
        let job = Job {
            tag,
            len: len as usize,
            at: 0,
            import: Some((key.to_vec(), fresh)),
        };
        self.go_on(job, file, Lent::In(filling));
        Ok(())
    }

    /// Waits for one that has ended; `None` if none is under way.
    pub(crate) fn next(&mut self) -> Result<Option<Done>, StoreError> {
        loop {
            if let Some(done) = self.done.pop_front() {
                return Ok(Some(done));
            }
            let landed = match &mut self.ring {
                Some(ring) => ring.land().doing("waiting for the io_uring")?,
                None => None,
            };
            let Some(landed) = landed else {
                return Ok(None);
            };
            let Landed {
                id,
                bytes,
                file,
                lent,
            } = landed;
            if let Some(mut job) = self.jobs.remove(&id) {
                match job.moved(bytes) {
                    Ok(()) => self.go_on(job, file, lent),
                    Err(e) => self.over(job.tag, Err(e).doing("transferring the value")),
                }
            }
        }
    }

    fn over(&mut self, tag: u64, outcome: Result<u64, StoreError>) {
        self.done.push_back(Done { tag, outcome });
    }

    /// Transfers what is left of the job, or ends it.
    fn go_on(&mut self, mut job: Job<'s>, file: File, mut lent: Lent<'s, Space>) {
        // Whole pages, as O_DIRECT wants: what follows the value in its last page is of the record, too.
        let end = job.len.next_multiple_of(PAGE as usize);
        let tag = job.tag;
        if self.ring.is_none() {
            while job.at < job.len {
                let bytes = match &mut lent {
                    Lent::Out(pinned) => file.write_at(&pinned[job.at..end], job.at as u64),
                    Lent::In(filling) => file.read_at(&mut filling[job.at..end], job.at as u64),
                };
                if let Err(e) = job.moved(bytes) {
                    return self.over(tag, Err(e).doing("transferring the value"));
                }
            }
        }
        match &mut self.ring {
            Some(ring) if job.at < job.len => match ring.start(lent, job.at..end, file) {
                Ok(id) => drop(self.jobs.insert(id, job)),
                Err(e) => self.over(tag, Err(e).doing("starting the transfer")),
            },
            _ => {
                let outcome = self.end(job, &file, lent);
                self.over(tag, outcome);
            }
        }
    }

    /// All bytes are where they should be.
    fn end(&self, job: Job<'s>, file: &File, lent: Lent<'s, Space>) -> Result<u64, StoreError> {
        let len = job.len as u64;
        match (lent, job.import) {
            (Lent::In(filling), Some((key, mut fresh))) => {
                fresh.filling = Some(filling);
                self.store.commit(&key, fresh, len)?;
            }
            _ => file.set_len(len).doing("setting the file's length")?,
        }
        Ok(len)
    }

    /// Opens a file for a device, if its file system lets one at it.
    fn direct(
        &mut self,
        options: &mut OpenOptions,
        path: &Path,
        what: &'static str,
    ) -> Result<File, StoreError> {
        let direct = OFlags::DIRECT.bits() as i32;
        match options.clone().custom_flags(direct).open(path) {
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                self.buffered += 1;
                options.open(path).doing(what)
            }
            file => file.doing(what),
        }
    }
}

impl Store {
    /// Empties a file that is about to be written; not if it is the pool, by whatever name.
    pub(crate) fn empty(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        let itself = self.guard.map().is_of(file);
        if itself.doing("asking which file it is")? {
            let path = path.to_owned();
            return Err(StoreError::OntoItself { path });
        }
        // A pipe or a device has no length to set.
        if file.metadata().is_ok_and(|about| about.is_file()) {
            file.set_len(0).doing("emptying the file to write to")?;
        }
        Ok(())
    }
}

impl Job<'_> {
    /// Takes note of how far a transfer has come.
    fn moved(&mut self, bytes: io::Result<usize>) -> io::Result<()> {
        let at = match bytes {
            Ok(n) => self.at + n,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let page = at / PAGE as usize * PAGE as usize;
        self.at = if at >= self.len {
            self.len
        } else if page > self.at {
            // A device goes on where a page begins.
            page
        } else {
            // Nothing more comes: the file has become shorter than the value.
            return Err(ErrorKind::UnexpectedEof.into());
        };
        Ok(())
    }
}
