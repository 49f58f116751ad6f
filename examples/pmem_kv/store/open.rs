//! Making and opening a pool file: the lock, the two superblock copies, the walk.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use layout_lease::LayoutGuard;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::check::walk;
use super::error::{Doing, StoreError};
use super::format::{
    Fault, Geometry, MAX_CAPACITY, MIN_CAPACITY, PAGE, SUPERBLOCK, Superblock, SuperblockFault,
};
use super::mapping::{Mapped, Shape};
use super::media::{Media, PmemMedia, media_of};
use super::slots::Slots;
use super::space::{Pool, Space};
use super::waits::Waits;
use super::{Store, TURNS};

/// What a pool is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Several processes may read at the same time. Not a byte of the file is changed.
    Read,
    /// This process alone.
    Write,
}

impl Store {
    /// Makes a pool that may grow to `capacity` bytes, and opens it for writing.
    ///
    /// The file appears under its name complete, or not at all. `media` is chosen by the file system
    /// when it is `None`.
    pub(crate) fn create(
        path: &Path,
        capacity: u64,
        media: Option<Box<dyn Media>>,
    ) -> Result<Store, StoreError> {
        let geometry = Geometry {
            capacity: capacity / PAGE,
        };
        if !(MIN_CAPACITY..=MAX_CAPACITY).contains(&geometry.capacity) {
            return Err(StoreError::Capacity { found: capacity });
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let file = tempfile::NamedTempFile::new_in(folder).doing("making the pool file")?;
        lock(file.as_file(), path, Access::Write)?;
        let superblock = Superblock {
            geometry,
            id: rand::random(),
        };
        let len = geometry.first() * PAGE;
        file.as_file().set_len(len).doing("sizing the pool file")?;
        match fallocate(file.as_file(), FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(e) => return Err(e).doing("allocating the directory"),
        }
        for copy in 0..2 {
            write_superblock(file.as_file(), copy, &superblock)?;
        }
        file.as_file().sync_all().doing("flushing the new pool")?;
        let file = file.persist_noclobber(path).map_err(|e| {
            let path = path.to_owned();
            match e.error.kind() {
                ErrorKind::AlreadyExists => StoreError::Exists { path },
                _ => StoreError::Io {
                    what: "naming the new pool file",
                    source: e.error,
                },
            }
        })?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .doing("flushing the pool's folder")?;
        Self::start(file, Access::Write, media).inspect_err(|_| {
            // It is still ours alone, and has nothing in it.
            let _ = std::fs::remove_file(path);
        })
    }

    /// Opens a pool and verifies every record in it.
    ///
    /// Damaged records do not keep it from opening: see [`problems`](Store::problems). One bad
    /// superblock copy does not either: see [`notes`](Store::notes); a writer repairs it.
    pub(crate) fn open(
        path: &Path,
        access: Access,
        media: Option<Box<dyn Media>>,
    ) -> Result<Store, StoreError> {
        let write = access == Access::Write;
        let file = match OpenOptions::new().read(true).write(write).open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let path = path.to_owned();
                return Err(StoreError::NoPool { path });
            }
            file => file.doing("opening the pool file")?,
        };
        lock(&file, path, access)?;
        let store = Self::start(file, access, media)?;
        if write {
            // Before a page that no entry names is used: until here the media may have one that does.
            let settled = store.guard.map().settle();
            settled.doing("flushing the directory")?;
        }
        Ok(store)
    }

    fn start(
        file: File,
        access: Access,
        media: Option<Box<dyn Media>>,
    ) -> Result<Store, StoreError> {
        let mut notes = Vec::new();
        let len = file.metadata().doing("asking for the file's length")?.len();
        let copies = (read_superblock(&file, 0)?, read_superblock(&file, 1)?);
        let (superblock, bad) = choose(copies.0, copies.1, len)?;
        let geometry = superblock.geometry;
        if len < geometry.first() * PAGE {
            return Err(StoreError::Truncated {
                expected: geometry.first() * PAGE,
                found: len,
            });
        }
        if let Some((copy, fault)) = bad {
            let mut note =
                format!("copy {copy} of the superblock is bad ({fault}); the other one is good");
            if access == Access::Write {
                write_superblock(&file, copy, &superblock)?;
                file.sync_all().doing("flushing the repaired superblock")?;
                note += ", and the bad one was written anew";
            }
            notes.push(note);
        }
        if len % PAGE != 0 {
            notes.push(format!(
                "the file has {len} bytes: expected whole pages of {PAGE}, so its last {} bytes are \
                 not used",
                len % PAGE
            ));
        }
        let shape = Shape {
            capacity: geometry.capacity,
            floor: geometry.first(),
            writable: access == Access::Write,
        };
        let pool = map(file, media, shape, geometry)?;
        let guard = Arc::new(LayoutGuard::new(pool));
        let walk = walk(&guard, geometry);
        let older = walk.problems.iter().filter_map(|problem| {
            let superseded = matches!(problem.fault, Fault::Superseded { .. });
            let key = problem.key.clone().filter(|_| superseded)?;
            Some((key, problem.slot))
        });
        Ok(Store {
            guard,
            index: walk.index,
            geometry,
            id: superblock.id,
            turns: [const { Mutex::new(()) }; TURNS],
            slots: Mutex::new(Slots::new(&walk.slots, geometry.slots())),
            seq: AtomicU64::new(walk.seq),
            broken: AtomicBool::new(false),
            positions: Mutex::default(),
            kept: Mutex::default(),
            compacting: Mutex::new(()),
            older: Mutex::new(older.collect()),
            retries: AtomicU64::new(0),
            claims: Waits::default(),
            frees: Waits::default(),
            truncations: Waits::default(),
            problems: walk.problems,
            notes,
        })
    }
}

/// Maps the pool with the media that were asked for, or else with the best that its file system grants.
fn map(
    file: File,
    media: Option<Box<dyn Media>>,
    shape: Shape,
    geometry: Geometry,
) -> Result<Pool, StoreError> {
    let map = |file, media: Box<dyn Media>| {
        let map_sync = media.map_sync();
        Mapped::new(file, media, shape, |pages| Space::new(geometry, pages)).map_err(|source| {
            match Errno::from_io_error(&source) {
                // The first is of a file system without DAX, the second of a kernel without MAP_SYNC.
                Some(Errno::OPNOTSUPP | Errno::INVAL) if map_sync => StoreError::NoDax { source },
                _ => StoreError::Io {
                    what: "mapping the pool file",
                    source,
                },
            }
        })
    };
    if let Some(media) = media {
        return map(file, media);
    }
    if let Some(pmem) = PmemMedia::new() {
        let same = file
            .try_clone()
            .doing("duplicating the pool's descriptor")?;
        if let Ok(pool) = map(same, Box::new(pmem)) {
            return Ok(pool);
        }
    }
    let media = media_of(&file).doing("asking for the file system")?;
    map(file, media)
}

fn lock(file: &File, path: &Path, access: Access) -> Result<(), StoreError> {
    let how = match access {
        Access::Read => FlockOperation::NonBlockingLockShared,
        Access::Write => FlockOperation::NonBlockingLockExclusive,
    };
    match flock(file, how) {
        Err(Errno::WOULDBLOCK) => Err(StoreError::InUse {
            path: path.to_owned(),
        }),
        locked => locked.doing("locking the pool file"),
    }
}

fn write_superblock(file: &File, copy: u64, superblock: &Superblock) -> Result<(), StoreError> {
    file.write_all_at(&superblock.encode(), copy * PAGE)
        .doing("writing the superblock")
}

/// One copy of the superblock, or what is wrong with it.
type OneCopy = Result<Superblock, SuperblockFault>;

fn read_superblock(file: &File, copy: u64) -> Result<OneCopy, StoreError> {
    let mut bytes = [0; SUPERBLOCK];
    let mut have = 0;
    while have < SUPERBLOCK {
        match file.read_at(&mut bytes[have..], copy * PAGE + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).doing("reading the superblock"),
        }
    }
    Ok(Superblock::decode(&bytes[..have]))
}

/// What the two copies say together, and which of them is bad, if one is.
fn choose(
    first: OneCopy,
    second: OneCopy,
    len: u64,
) -> Result<(Superblock, Option<(u64, SuperblockFault)>), StoreError> {
    use SuperblockFault::{Magic, Missing, Version};
    // An intact copy of another version: whoever wrote it knows better what the file is.
    for copy in [&first, &second] {
        if let Err(Version { found, intact }) = *copy {
            if intact {
                return Err(StoreError::Version { found });
            }
        }
    }
    match (first, second) {
        (Ok(first), Ok(second)) if first == second => Ok((first, None)),
        (Ok(_), Ok(_)) => Err(StoreError::SuperblocksDiffer),
        (Ok(good), Err(fault)) => Ok((good, Some((1, fault)))),
        (Err(fault), Ok(good)) => Ok((good, Some((0, fault)))),
        (Err(Version { found, .. }), _) | (_, Err(Version { found, .. })) => {
            Err(StoreError::Version { found })
        }
        (Err(Missing), _) => Err(StoreError::Truncated {
            expected: Geometry {
                capacity: MIN_CAPACITY,
            }
            .first()
                * PAGE,
            found: len,
        }),
        (Err(fault @ Magic { .. }), Err(Magic { .. } | Missing)) => {
            Err(StoreError::NoPoolFile(fault))
        }
        (Err(first), Err(second)) => Err(StoreError::Superblock { first, second }),
    }
}
