//! A device that works on the mapped bytes themselves.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use io_uring::{IoUring, Probe, opcode, types};
use layout_lease::{LayoutGuard, PagePin, PinToken};

use super::Mapped;
use super::lent::{Filling, Pinned};

/// An io_uring between the mapping and files: the device works on the mapped bytes themselves.
///
/// What a device reads is pinned, and the pin travels with the operation: its token is the operation's
/// `user_data`. What a device writes is covered by a proof, which stays here until it has finished.
pub(crate) struct Ring<'g, E> {
    uring: IoUring,
    guard: &'g LayoutGuard<Mapped<E>>,
    /// By `user_data`: a token, or a number below 2^32, which no token has.
    flights: HashMap<u64, Flight<'g, E>>,
    incoming: u64,
    /// Of the superblock's page, which is never broken. It keeps the mapping from going (I9), even if
    /// this is leaked while a device writes to it.
    alive: Option<PagePin>,
}

/// An operation under way.
struct Flight<'g, E> {
    file: File,
    bytes: Bytes<'g, E>,
}

enum Bytes<'g, E> {
    /// To a file. The pin is in the token.
    Out { base: NonNull<u8>, len: usize },
    /// From a file.
    In(Filling<'g, E>),
}

/// An operation that has ended, and what it was about.
#[derive(Debug)]
pub(crate) struct Landed<'g, E> {
    pub(crate) id: u64,
    pub(crate) bytes: io::Result<usize>,
    pub(crate) file: File,
    pub(crate) lent: Lent<'g, E>,
}

/// What a device has worked on.
#[derive(Debug)]
pub(crate) enum Lent<'g, E> {
    Out(Pinned),
    In(Filling<'g, E>),
}

impl<E> fmt::Debug for Ring<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} in flight)", self.flights.len())
    }
}

impl<'g, E> Ring<'g, E> {
    /// Refused where io_uring is not allowed, or too old.
    pub(crate) fn new(guard: &'g LayoutGuard<Mapped<E>>, entries: u32) -> io::Result<Ring<'g, E>> {
        let uring = IoUring::new(entries)?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let codes = [opcode::Read::CODE, opcode::Write::CODE];
        if !codes.into_iter().all(|code| probe.is_supported(code)) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(Ring {
            uring,
            guard,
            flights: HashMap::new(),
            incoming: 0,
            alive: Some(guard.try_pin(0..1).map_err(io::Error::other)?),
        })
    }

    /// Begins to transfer `part` of what is lent, to or from the same place in the file. Its number.
    pub(crate) fn start(
        &mut self,
        lent: Lent<'g, E>,
        part: Range<usize>,
        file: File,
    ) -> io::Result<u64> {
        let fd = types::Fd(file.as_raw_fd());
        // What is written to must be of the mapping that `alive` keeps.
        let (len, ours) = match &lent {
            Lent::Out(pinned) => (pinned.len(), true),
            Lent::In(filling) => (
                filling.len(),
                std::ptr::eq(filling.proof.guard(), self.guard),
            ),
        };
        let size = u32::try_from(part.len()).map_err(io::Error::other)?;
        if part.is_empty() || part.end > len || !ours {
            return Err(ErrorKind::InvalidInput.into());
        }
        let (id, entry, bytes) = match lent {
            Lent::Out(Pinned { base, len, pin }) => {
                let at = base.as_ptr().wrapping_add(part.start);
                let write = opcode::Write::new(fd, at, size).offset(part.start as u64);
                let id = pin.into_token().to_u64();
                (id, write.build(), Bytes::Out { base, len })
            }
            Lent::In(filling) => {
                let at = filling.base.as_ptr().wrapping_add(part.start);
                let read = opcode::Read::new(fd, at, size).offset(part.start as u64);
                self.incoming = (self.incoming + 1) & u64::from(u32::MAX);
                (self.incoming, read.build(), Bytes::In(filling))
            }
        };
        self.flights.insert(id, Flight { file, bytes });
        let entry = entry.user_data(id);
        // SAFETY: until the operation has completed, and `land` has seen that,
        // - the file stays open: it is in `flights`;
        // - the mapping stays: `alive`, or the token's pin, keeps it (I9);
        // - nobody touches what is written to: its proof is in `flights`; should that be leaked with the
        //   ring, the pages stay closed for ever;
        // - what is read is pinned by the token. (Whoever redeems a token that is not theirs has the
        //   device read other bytes; that harms nothing in this process.)
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            let _ = self.flight(id);
            return Err(io::Error::other("too many operations at a time"));
        }
        // What the kernel does not take now it takes when it is waited for.
        let _ = self.uring.submit();
        Ok(id)
    }

    /// Takes an operation that is not under way any more off the list.
    fn flight(&mut self, id: u64) -> Option<(File, Lent<'g, E>)> {
        let Flight { file, bytes } = self.flights.remove(&id)?;
        let lent = match bytes {
            Bytes::In(filling) => Lent::In(filling),
            Bytes::Out { base, len } => {
                // INVARIANT of Pinned: it is the pin that the token was made of.
                let pin = PinToken::from_u64(id).and_then(PinToken::redeem)?;
                Lent::Out(Pinned { base, len, pin })
            }
        };
        Some((file, lent))
    }

    /// Waits for one operation; `None` if there is none.
    pub(crate) fn land(&mut self) -> io::Result<Option<Landed<'g, E>>> {
        while !self.flights.is_empty() {
            let Some(done) = self.uring.completion().next() else {
                match self.uring.submit_and_wait(1) {
                    Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
                    _ => continue,
                }
            };
            let id = done.user_data();
            let Some((file, lent)) = self.flight(id) else {
                continue;
            };
            let bytes = match done.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            return Ok(Some(Landed {
                id,
                bytes,
                file,
                lent,
            }));
        }
        Ok(None)
    }
}

impl<E> Drop for Ring<'_, E> {
    fn drop(&mut self) {
        // What cannot be waited for is left as it is, for ever: pinned, closed, mapped.
        while let Ok(Some(_)) = self.land() {}
        if !self.flights.is_empty() {
            std::mem::forget(std::mem::take(&mut self.flights));
            std::mem::forget(self.alive.take());
        }
    }
}
