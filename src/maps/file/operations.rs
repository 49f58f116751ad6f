//! The operations of [`FileBlocks`]: each asks the proof (**I2**), checks what the kernel would refuse anyway but
//! say less clearly, and makes one system call.
//!
//! | operation | system call | blocks freed |
//! | --- | --- | --- |
//! | punch | `fallocate(PUNCH_HOLE \| KEEP_SIZE)` | those that held data |
//! | zero | `fallocate(ZERO_RANGE)` | none: they stay the file's |
//! | truncate | `ftruncate` | those that held data |
//! | collapse | `fallocate(COLLAPSE_RANGE)` | those that held data |
//! | insert | `fallocate(INSERT_RANGE)` | none: they move |

use core::ops::Range;
use std::io;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, ftruncate, seek};
use rustix::io::{Errno, Result as Answer};

use super::{FileBlocks, FileError, FileOp};
use crate::block_map::BlockMap;
use crate::drained::Drained;
use crate::error::OpError;
use crate::range::PageRange;
use crate::sync::Ordering;

impl FileBlocks {
    /// Checks the evidence: the proof is of this map and covers `pages` (**I2**).
    fn admit(
        &self,
        proof: &Drained<'_, Self>,
        pages: Option<PageRange>,
    ) -> Result<(), OpError<FileError>> {
        if !proof.is_of(self) {
            return Err(OpError::WrongMapping);
        }
        match pages {
            Some(pages) if !proof.covers(pages) => Err(OpError::NotCovered),
            _ => Ok(()),
        }
    }

    /// The offset of the first byte of `page`.
    fn offset(&self, op: FileOp, page: u64) -> Result<u64, FileError> {
        let offset = page.checked_mul(self.page_size);
        let offset = offset.filter(|&at| i64::try_from(at).is_ok());
        offset.ok_or(FileError::TooLarge {
            op,
            page_size: self.page_size,
        })
    }

    /// The bytes of `pages`; an open range ends with the file's last page. `None`: there are no pages.
    fn bytes(
        &self,
        op: FileOp,
        pages: PageRange,
        len: u64,
    ) -> Result<Option<Range<u64>>, FileError> {
        let end = match pages.end() {
            u64::MAX => len.div_ceil(self.page_size),
            end => end,
        };
        if pages.start() >= end {
            return Ok(None);
        }
        Ok(Some(self.offset(op, pages.start())?..self.offset(op, end)?))
    }

    /// How many pages of `bytes` have data in blocks that can be freed: those that lie within `bytes`,
    /// and the block with the end of the file.
    fn data_pages(&self, op: FileOp, bytes: Range<u64>, len: u64) -> Result<u64, FileError> {
        let block = self.block_size;
        let mut at = bytes.start.div_ceil(block).saturating_mul(block);
        let end = if bytes.end >= len {
            len
        } else {
            bytes.end / block * block
        };
        let (mut count, mut counted) = (0, 0);
        while at < end {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) if data < end => data,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(e) => return Err(self.failed(op, e)),
            };
            let hole = match seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(end),
                Err(e) => return Err(self.failed(op, e)),
            };
            // Two runs of data may share a page.
            let first = counted.max(data / self.page_size);
            counted = hole.div_ceil(self.page_size);
            count += counted.saturating_sub(first);
            at = hole;
        }
        Ok(count)
    }

    fn failed(&self, op: FileOp, error: Errno) -> FileError {
        FileError::Io {
            op,
            file_system: self.file_system,
            source: io::Error::from(error),
        }
    }

    /// What the answer of a system call means.
    fn judge(&self, op: FileOp, answer: Answer<()>) -> Result<(), OpError<FileError>> {
        match answer {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.refused.fetch_or(1 << op as u64, Ordering::Relaxed);
                Err(OpError::Unsupported)
            }
            Err(e) => Err(OpError::Map(self.failed(op, e))),
        }
    }

    /// Takes `bytes` out or puts them in, once.
    fn shift(
        &self,
        op: FileOp,
        flags: FallocateFlags,
        bytes: &Range<u64>,
        len: u64,
    ) -> Result<(), OpError<FileError>> {
        loop {
            let answer = fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start);
            // A signal. The other operations can be done twice; here only the length tells whether it
            // was done, and nobody else changes that: the proof covers all that lies behind.
            if answer == Err(Errno::INTR) {
                if self.len().map_err(OpError::Map)? == len {
                    continue;
                }
                return Ok(());
            }
            return self.judge(op, answer);
        }
    }
}

/// Every operation asks the proof before it looks at anything else.
impl BlockMap for FileBlocks {
    type Error = FileError;

    /// Frees the blocks behind `pages`, which read as zeroes then. The length stays, and a punch may reach
    /// past the end.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::Io`].
    fn punch_hole(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::PunchHole;
        self.admit(proof, Some(pages))?;
        let len = self.len().map_err(OpError::Map)?;
        // There is nothing behind the last page, and offsets there may be too large to be named.
        let end = pages.end().min(len.div_ceil(self.page_size));
        let Ok(pages) = PageRange::new(pages.start(), end) else {
            return Ok(0);
        };
        let Some(bytes) = self.bytes(OP, pages, len).map_err(OpError::Map)? else {
            return Ok(0);
        };
        let freed = self.data_pages(OP, bytes.clone(), len);
        let freed = freed.map_err(OpError::Map)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let answer = again(|| fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start));
        self.judge(OP, answer)?;
        Ok(freed)
    }

    /// Makes `pages` read as zeroes, and grows the file to cover them; an open range (`n..`) ends with the
    /// file. The space stays the file's, so later writes to these pages find room. Frees nothing: the
    /// answer is 0.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::TooLarge`] or
    /// [`FileError::Io`].
    fn zero_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::ZeroRange;
        self.admit(proof, Some(pages))?;
        let len = self.len().map_err(OpError::Map)?;
        let Some(mut bytes) = self.bytes(OP, pages, len).map_err(OpError::Map)? else {
            return Ok(0);
        };
        if pages.end() == u64::MAX {
            bytes.end = len;
        }
        let flags = FallocateFlags::ZERO_RANGE;
        let answer = again(|| fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start));
        self.judge(OP, answer)?;
        Ok(0)
    }

    /// Sets the length to `new_len` whole pages. What is added reads as zeroes.
    ///
    /// The proof must cover `new_len..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, and as [`OpError::Map`] a [`FileError::TooLarge`] or [`FileError::Io`].
    fn truncate(&self, new_len: u64, proof: &Drained<'_, Self>) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::Truncate;
        self.admit(proof, from(new_len))?;
        let work = || {
            let end = self.offset(OP, new_len)?;
            let len = self.len()?;
            Ok((end, self.data_pages(OP, end..len, len)?))
        };
        let (end, freed) = work().map_err(OpError::Map)?;
        self.judge(OP, again(|| ftruncate(&self.file, end)))?;
        Ok(freed)
    }

    /// Takes `pages` out: the bytes behind them move down, and the file gets shorter.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::OutOfRange`]
    /// unless `pages` ends before the end of the file (to cut the end off, truncate), or a
    /// [`FileError::Io`].
    fn collapse_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::CollapseRange;
        self.admit(proof, from(pages.start()))?;
        if !self.moves {
            return Err(OpError::Unsupported);
        }
        let work = || {
            let len = self.len()?;
            // Pages whose offset cannot be named lie behind the end of every file.
            let end = self.offset(OP, pages.end()).unwrap_or(u64::MAX);
            if end >= len {
                return Err(FileError::OutOfRange { op: OP, pages, len });
            }
            let bytes = self.offset(OP, pages.start())?..end;
            Ok((self.data_pages(OP, bytes.clone(), len)?, bytes, len))
        };
        let (freed, bytes, len) = work().map_err(OpError::Map)?;
        self.shift(OP, FallocateFlags::COLLAPSE_RANGE, &bytes, len)?;
        Ok(freed)
    }

    /// Makes `pages` a hole: the bytes from `pages.start()` on move up, and the file gets longer. Frees
    /// nothing: the answer is 0.
    ///
    /// The proof must cover `pages.start()..`.
    ///
    /// # Errors
    ///
    /// Those of the proof, [`OpError::Unsupported`], and as [`OpError::Map`] a [`FileError::OutOfRange`]
    /// unless `pages` starts before the end of the file (to grow at the end, truncate), a
    /// [`FileError::TooLarge`], or a [`FileError::Io`].
    fn insert_range(
        &self,
        pages: PageRange,
        proof: &Drained<'_, Self>,
    ) -> Result<u64, OpError<FileError>> {
        const OP: FileOp = FileOp::InsertRange;
        self.admit(proof, from(pages.start()))?;
        if !self.moves {
            return Err(OpError::Unsupported);
        }
        let work = || {
            let len = self.len()?;
            let start = self.offset(OP, pages.start()).unwrap_or(u64::MAX);
            if start >= len {
                return Err(FileError::OutOfRange { op: OP, pages, len });
            }
            let bytes = start..self.offset(OP, pages.end())?;
            let longer = (bytes.end - bytes.start).saturating_add(len);
            if i64::try_from(longer).is_err() {
                let page_size = self.page_size;
                return Err(FileError::TooLarge { op: OP, page_size });
            }
            Ok((bytes, len))
        };
        let (bytes, len) = work().map_err(OpError::Map)?;
        self.shift(OP, FallocateFlags::INSERT_RANGE, &bytes, len)?;
        Ok(0)
    }
}

/// Until no signal comes in between; what is done twice must do no harm.
fn again(call: impl FnMut() -> Answer<()>) -> Answer<()> {
    rustix::io::retry_on_intr(call)
}

/// The pages `start..`; `None` if there are none.
fn from(start: u64) -> Option<PageRange> {
    PageRange::new(start, u64::MAX).ok()
}
