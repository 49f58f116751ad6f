//! What is on the media, to the byte. No I/O here: bytes in, values out, and back.
//!
//! `FORMAT.md`, next to this program, describes it in full; this is the same in code.
//!
//! ```text
//! page 0, 1         superblock, two copies
//! page 2 ..         directory: one 8-byte entry for each page the pool can ever have, so that the
//!                   directory cannot be full before the space is
//! behind it         record extents and free pages, up to the end of the file
//! ```
//!
//! A record's extent is whole pages in one piece: the value from the first byte on, zeroes, the key,
//! the footer. The checksum is over all of it: no bit of an extent can flip unseen. The footer repeats
//! the number of its directory entry (`slot`) and the size of its extent, so that a record and an entry
//! that do not belong together are found.
//!
//! # Crash consistency
//!
//! A record is written and flushed while no entry points at it. One aligned 8-byte store to the
//! entry, then flushed, publishes it: the entry names the old record or the new one, never half of
//! either. Deleting stores 0. Pages are freed only after the entry that no longer names them is
//! flushed. So recovery needs no log: it walks the directory, verifies what the entries name, and
//! everything else is free; once the entries, as they were seen, are on the media.

use std::fmt;
use std::ops::Range;

use layout_lease::PageRange;
use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;
/// The version of the format.
pub(crate) const VERSION: u32 = 1;
/// The first 8 bytes of both superblock copies.
pub(crate) const POOL_MAGIC: [u8; 8] = *b"PMEMKV\r\n";
/// The first 8 bytes of each record's footer.
pub(crate) const RECORD_MAGIC: [u8; 8] = *b"KVRECORD";
/// Bytes of a superblock copy; the rest of its page is zero.
pub(crate) const SUPERBLOCK: usize = 64;
/// Bytes of a record's footer.
pub(crate) const FOOTER: usize = 64;
/// The directory's first page; before it are the two copies of the superblock.
pub(crate) const DIRECTORY: u64 = 2;
/// The longest key, in bytes. The shortest has 1.
pub(crate) const MAX_KEY: usize = 1024;
/// The longest value, in bytes, in a pool that is large enough.
pub(crate) const MAX_VALUE: u64 = 256 << 20;
/// The fewest pages a pool may be made for.
pub(crate) const MIN_CAPACITY: u64 = 16;
/// The most pages a pool may be made for (16 TiB): an entry has 32 bits for the first page.
pub(crate) const MAX_CAPACITY: u64 = 1 << 32;

const CRC_AT: usize = 8;
const MAX_PAGES: u64 = (1 << 24) - 1;
// The longest record fits into an entry's 24 bits for the number of pages.
const _: () = assert!(MAX_VALUE / PAGE + 2 <= MAX_PAGES);

/// Directory entries in a page.
pub(crate) const ENTRIES_PER_PAGE: u64 = PAGE / 8;

/// Where the parts of a pool lie. All of it follows from the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Pages the file may grow to.
    pub(crate) capacity: u64,
}

impl Geometry {
    /// The first page for records.
    pub(crate) fn first(self) -> u64 {
        DIRECTORY + self.capacity.div_ceil(ENTRIES_PER_PAGE)
    }

    /// The number of directory entries.
    pub(crate) fn slots(self) -> u64 {
        self.capacity
    }

    /// The longest value this pool can hold, in bytes, next to a key of one byte.
    pub(crate) fn max_value(self) -> u64 {
        let room = (self.capacity - self.first()) * PAGE;
        MAX_VALUE.min(room.saturating_sub(FOOTER as u64 + 1))
    }
}

// ---------------------------------------------------------------------------------- superblock

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    page_size: U32,
    zero: U32,
    capacity: U64,
    directory: U64,
    first: U64,
    id: U64,
    zero2: U64,
}

/// What a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) geometry: Geometry,
    /// A random number that the pool was given when it was made.
    pub(crate) id: u64,
}

/// What is wrong with one copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SuperblockFault {
    #[error("the file ends before it")]
    Missing,
    #[error("expected the magic {:?}, found {:?}", Ascii(POOL_MAGIC), Ascii(*found))]
    Magic { found: [u8; 8] },
    #[error("expected version {VERSION}, found version {found}")]
    Version { found: u32, intact: bool },
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("{what} is {found}, expected {expected}")]
    Field {
        what: &'static str,
        found: u64,
        expected: u64,
    },
}

/// Eight bytes as text, so that a wrong magic can be read in a message.
struct Ascii([u8; 8]);

impl fmt::Debug for Ascii {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK] {
        let mut raw = RawSuperblock {
            magic: POOL_MAGIC,
            crc: U32::ZERO,
            version: VERSION.into(),
            page_size: (PAGE as u32).into(),
            zero: U32::ZERO,
            capacity: self.geometry.capacity.into(),
            directory: DIRECTORY.into(),
            first: self.geometry.first().into(),
            id: self.id.into(),
            zero2: U64::ZERO,
        };
        raw.crc = crc32c::crc32c(raw.as_bytes()).into();
        zerocopy::transmute!(raw)
    }

    /// Reads one copy. `bytes` may be shorter than a superblock when the file is.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockFault> {
        let (raw, _) =
            RawSuperblock::read_from_prefix(bytes).map_err(|_| SuperblockFault::Missing)?;
        if raw.magic != POOL_MAGIC {
            return Err(SuperblockFault::Magic { found: raw.magic });
        }
        let stored = raw.crc.get();
        let computed = crc_without_itself(&bytes[..SUPERBLOCK]);
        // Another version may keep its checksum elsewhere, so the version is asked first.
        if raw.version != VERSION {
            return Err(SuperblockFault::Version {
                found: raw.version.get(),
                intact: stored == computed,
            });
        }
        if stored != computed {
            return Err(SuperblockFault::Checksum { stored, computed });
        }
        let capacity = raw.capacity.get();
        let geometry = Geometry {
            capacity: capacity.clamp(MIN_CAPACITY, MAX_CAPACITY),
        };
        for (what, found, expected) in [
            ("the page size", raw.page_size.get().into(), PAGE),
            ("the capacity in pages", capacity, geometry.capacity),
            ("the directory's page", raw.directory.get(), DIRECTORY),
            ("the first record page", raw.first.get(), geometry.first()),
        ] {
            if found != expected {
                return Err(SuperblockFault::Field {
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(Superblock {
            geometry,
            id: raw.id.get(),
        })
    }
}

// ------------------------------------------------------------------------------ directory entry

/// Packs a directory entry. No extent is too large for one: see the limits above.
pub(crate) fn pack(extent: PageRange, crc: u32) -> u64 {
    debug_assert!(extent.end() <= MAX_CAPACITY && extent.len() <= MAX_PAGES);
    extent.start() | extent.len() << 32 | u64::from(crc & 0xff) << 56
}

/// A directory entry that is not empty, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirEntry {
    pub(crate) start: u64,
    pub(crate) pages: u64,
    pub(crate) tag: u8,
}

/// Unpacks a directory entry; `None` is "empty".
pub(crate) fn unpack(word: u64) -> Option<DirEntry> {
    (word != 0).then_some(DirEntry {
        start: word & 0xffff_ffff,
        pages: word >> 32 & 0xff_ffff,
        tag: (word >> 56) as u8,
    })
}

impl DirEntry {
    /// The extent, if the pool has such pages.
    pub(crate) fn extent(&self, geometry: Geometry) -> Option<PageRange> {
        let extent = PageRange::new(self.start, self.start + self.pages).ok()?;
        (geometry.first() <= extent.start() && extent.end() <= geometry.capacity).then_some(extent)
    }
}

/// The bytes of `extent` in the file.
pub(crate) fn bytes_of(extent: PageRange) -> Range<u64> {
    extent.start() * PAGE..extent.end() * PAGE
}

/// The bytes of `slot`'s entry in the file.
pub(crate) fn entry_bytes(slot: u64) -> Range<u64> {
    let at = DIRECTORY * PAGE + slot * 8;
    at..at + 8
}

// --------------------------------------------------------------------------------------- record

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawFooter {
    magic: [u8; 8],
    crc: U32,
    key_len: U32,
    value_len: U64,
    seq: U64,
    slot: U64,
    pages: U64,
    zero: [u8; 16],
}

const _: () = assert!(size_of::<RawSuperblock>() == SUPERBLOCK && size_of::<RawFooter>() == FOOTER);

/// What is wrong with a record or its directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    #[error("the directory entry {word:#018x} names pages outside {first}..{capacity}")]
    Entry {
        word: u64,
        first: u64,
        capacity: u64,
    },
    #[error("the pool is truncated: the record needs {needed} pages, the file has {found}")]
    BeyondEnd { needed: u64, found: u64 },
    #[error("no record footer: expected the magic {:?}, found {:?}", Ascii(RECORD_MAGIC), Ascii(*found))]
    Magic { found: [u8; 8] },
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("{what} is {found} in the record, expected {expected}")]
    Field {
        what: &'static str,
        found: u64,
        expected: u64,
    },
    #[error("key of {key} and value of {value} bytes do not fit into the extent of {extent} bytes")]
    Lengths { key: u64, value: u64, extent: u64 },
    #[error("its pages overlap those of another record")]
    Overlap,
    #[error("slot {by} has a newer record of the same key")]
    Superseded { by: u64 },
}

/// A record's parts, in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) slot: u64,
    pub(crate) crc: u32,
}

/// The pages that a record needs.
pub(crate) fn pages_for(key: usize, value: u64) -> u64 {
    (value + (key + FOOTER) as u64).div_ceil(PAGE)
}

/// What follows the value in the extent (zeroes, key, footer), and the record's checksum.
pub(crate) fn tail_of(key: &[u8], value: &[u8], seq: u64, slot: u64) -> (Vec<u8>, u32) {
    let pages = pages_for(key.len(), value.len() as u64);
    let mut footer = RawFooter {
        magic: RECORD_MAGIC,
        crc: U32::ZERO,
        key_len: (key.len() as u32).into(),
        value_len: (value.len() as u64).into(),
        seq: seq.into(),
        slot: slot.into(),
        pages: pages.into(),
        zero: [0; 16],
    };
    let zeroes = (pages * PAGE) as usize - FOOTER - key.len() - value.len();
    let mut tail = vec![0; zeroes];
    tail.extend_from_slice(key);
    let crc = crc32c::crc32c_append(crc32c::crc32c(value), &tail);
    let crc = crc32c::crc32c_append(crc, footer.as_bytes());
    footer.crc = crc.into();
    tail.extend_from_slice(footer.as_bytes());
    (tail, crc)
}

/// Reads the record that fills `extent`.
///
/// On a fault, also what can be said about the key: it is unverified, and may be wrong itself.
pub(crate) fn decode(extent: &[u8]) -> Result<Record<'_>, (Fault, Option<Record<'_>>)> {
    let (body, raw) = RawFooter::read_from_suffix(extent)
        .map(|(body, raw)| (body.len(), raw))
        .map_err(|_| (Fault::Magic { found: [0; 8] }, None))?;
    if raw.magic != RECORD_MAGIC {
        return Err((Fault::Magic { found: raw.magic }, None));
    }
    let (key, value) = (raw.key_len.get() as usize, raw.value_len.get());
    let pages = extent.len() as u64 / PAGE;
    if raw.pages != pages {
        let fault = Fault::Field {
            what: "the number of pages",
            found: raw.pages.get(),
            expected: pages,
        };
        return Err((fault, None));
    }
    let fits = value
        .checked_add(key as u64)
        .is_some_and(|n| n <= body as u64);
    if !fits || key == 0 || key > MAX_KEY {
        let fault = Fault::Lengths {
            key: key as u64,
            value,
            extent: extent.len() as u64,
        };
        return Err((fault, None));
    }
    let record = Record {
        key: &extent[body - key..body],
        value: &extent[..value as usize],
        seq: raw.seq.get(),
        slot: raw.slot.get(),
        crc: raw.crc.get(),
    };
    let computed = crc_without_itself_at(extent, body + CRC_AT);
    if computed != record.crc {
        let fault = Fault::Checksum {
            stored: record.crc,
            computed,
        };
        return Err((fault, Some(record)));
    }
    Ok(record)
}

fn crc_without_itself(bytes: &[u8]) -> u32 {
    crc_without_itself_at(bytes, CRC_AT)
}

fn crc_without_itself_at(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

/// A field on the media: of which structure, its name, its first byte, its bytes.
#[cfg(test)]
pub(crate) type Field = (&'static str, &'static str, usize, usize);

/// Every field, to be compared with what `FORMAT.md` says.
#[cfg(test)]
pub(crate) fn layout() -> Vec<Field> {
    fn size<T, F>(_: fn(&T) -> &F) -> usize {
        size_of::<F>()
    }
    macro_rules! fields {
        ($what:literal, $of:ty: $($field:ident)*) => {
            [$(($what, stringify!($field), std::mem::offset_of!($of, $field), size(|of: &$of| &of.$field))),*]
        };
    }
    let superblock = fields!("Superblock", RawSuperblock:
        magic crc version page_size zero capacity directory first id zero2);
    let footer = fields!("Record extent", RawFooter:
        magic crc key_len value_len seq slot pages zero);
    superblock.into_iter().chain(footer).collect()
}
