//! The pool: buffers that are registered while they are leased, and requests that carry their pins.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use io_uring::squeue;
use layout_lease::{PagePin, PinToken};

use crate::load::Load;
use crate::ring::{BELL, CANCEL, PAGE, PAGES, Ring};
use crate::{Outcome, Scene, pages_of};

/// The life of buffer `n`: the pool grows by it, and shrinks by it when a break wants its pages.
pub(crate) async fn life(scene: &Scene, pool: &RefCell<Pool<'_>>, n: usize) -> Outcome<()> {
    loop {
        let lease = scene.leases().lease(pages_of(n));
        let lease = lease.labelled(format!("buffer {n}")).await?;
        pool.borrow_mut().grow(n)?;
        lease.recalled().await;
        pool.borrow_mut().shrink(n)?;
        // The break goes on waiting for the pin of a request in flight.
        drop(lease);
    }
}

/// What a request is to do with its buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Reads a record of the file.
    Read { record: usize },
    /// Writes a record of the file.
    Write { record: usize, version: u64 },
    /// Waits for a message from client `client`: for ever, if none comes.
    Listen { client: usize },
}

/// A request in flight: what the ring's side knows of it. The pin is not here, but in the `user_data`.
struct Request {
    op: Op,
    token: u64,
    cancelled: bool,
    client: Weak<Shared>,
}

/// What a request and its client share.
struct Shared {
    done: Cell<bool>,
    /// For `--pin-in-handle`: the mistake.
    pin: RefCell<Option<PagePin>>,
}

/// The client's end of a request, as a future would be. May be dropped at any time, which ends nothing but
/// the client's interest.
pub(crate) struct Handle {
    shared: Rc<Shared>,
    pub(crate) buffer: usize,
    token: u64,
}

impl Handle {
    pub(crate) fn is_done(&self) -> bool {
        self.shared.done.get()
    }
}

#[derive(Default)]
struct Buffer {
    registered: bool,
    request: Option<Request>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) grown: u64,
    pub(crate) shrunk: u64,
    pub(crate) smallest: usize,
    pub(crate) largest: usize,
    /// Requests that their clients cancelled, that a recall cancelled, that their clients dropped.
    pub(crate) cancelled: u64,
    pub(crate) recalled: u64,
    pub(crate) dropped: u64,
    /// How it ended for those that were cancelled or recalled.
    pub(crate) ended_early: u64,
    pub(crate) ended_anyway: u64,
    /// Completions of requests whose client was gone.
    pub(crate) for_nobody: u64,
}

pub(crate) struct Pool<'g> {
    scene: &'g Scene,
    ring: Ring,
    buffers: Vec<Buffer>,
    size: usize,
    /// Requests in flight.
    pub(crate) busy: usize,
    pub(crate) counts: Counts,
}

impl<'g> Pool<'g> {
    pub(crate) fn new(scene: &'g Scene, mut ring: Ring) -> io::Result<Pool<'g>> {
        ring.poll(scene.bell.heard.as_fd())?;
        Ok(Pool {
            scene,
            ring,
            buffers: (0..scene.buffers).map(|_| Buffer::default()).collect(),
            size: 0,
            busy: 0,
            counts: Counts {
                smallest: scene.buffers,
                ..Counts::default()
            },
        })
    }

    fn grow(&mut self, n: usize) -> io::Result<()> {
        self.ring.register(n)?;
        self.buffers[n].registered = true;
        self.size += 1;
        self.counts.grown += 1;
        self.counts.largest = self.counts.largest.max(self.size);
        Ok(())
    }

    /// A break wants the buffer: no device is to have it for long any more.
    fn shrink(&mut self, n: usize) -> io::Result<()> {
        if let Some(request) = &mut self.buffers[n].request {
            if !request.cancelled {
                request.cancelled = true;
                self.counts.recalled += 1;
                self.ring.cancel(request.token)?;
            }
            if let Some(shared) = request.client.upgrade() {
                drop(shared.pin.take());
            }
        }
        self.buffers[n].registered = false;
        self.size -= 1;
        self.counts.shrunk += 1;
        self.counts.smallest = self.counts.smallest.min(self.size);
        self.ring.deregister(n)
    }

    /// The buffers that a request could use.
    pub(crate) fn idle(&self) -> impl Iterator<Item = usize> {
        let idle = |(n, buffer): (usize, &Buffer)| {
            (buffer.registered && buffer.request.is_none()).then_some(n)
        };
        self.buffers.iter().enumerate().filter_map(idle)
    }

    /// Pins the buffer's pages for a request, if they are not being broken. What goes into `user_data`, and
    /// what the client has.
    fn pin(&self, n: usize) -> Option<(u64, Option<PagePin>)> {
        let (carried, handed) = self.scene.pins(n)?;
        Some((carried.into_token().to_u64(), handed))
    }

    /// Starts a request with an idle buffer. `fill` puts in what is to be written.
    pub(crate) fn start(
        &mut self,
        n: usize,
        op: Op,
        (file, offset): (BorrowedFd<'_>, u64),
        mut flags: squeue::Flags,
        fill: impl FnOnce(),
    ) -> io::Result<Option<Handle>> {
        let Some((token, handed)) = self.pin(n) else {
            return Ok(None);
        };
        fill(); // under the pin
        let (whole, message) = (PAGES as usize * PAGE, PAGE);
        match op {
            Op::Read { .. } => self.ring.read((file, offset), (n, whole), flags, token)?,
            Op::Write { .. } => self.ring.write((file, offset), n, flags, token)?,
            Op::Listen { .. } => {
                flags = squeue::Flags::empty();
                self.ring.read((file, offset), (n, message), flags, token)?
            }
        }
        let shared = Rc::new(Shared {
            done: Cell::new(false),
            pin: RefCell::new(handed),
        });
        self.scene.abandoned[n].store(false, Ordering::Relaxed);
        self.buffers[n].request = Some(Request {
            op,
            token,
            cancelled: false,
            client: Rc::downgrade(&shared),
        });
        self.busy += 1;
        Ok(Some(Handle {
            shared,
            buffer: n,
            token,
        }))
    }

    /// Asks the kernel to end the request soon. The pin stays with it.
    pub(crate) fn cancel(&mut self, handle: &Handle) -> io::Result<()> {
        match &mut self.buffers[handle.buffer].request {
            Some(request) if request.token == handle.token && !request.cancelled => {
                request.cancelled = true;
            }
            _ => return Ok(()),
        }
        self.counts.cancelled += 1;
        self.scene.abandoned[handle.buffer].store(true, Ordering::Relaxed);
        self.ring.cancel(handle.token)
    }

    /// The client goes away. The pin stays with the request.
    pub(crate) fn forget(&mut self, handle: Handle) {
        if !handle.is_done() {
            self.counts.dropped += 1;
            self.scene.abandoned[handle.buffer].store(true, Ordering::Relaxed);
        }
    }

    /// Cancels whatever is in flight: the pool is to come to its end.
    pub(crate) fn cancel_all(&mut self) -> io::Result<()> {
        let requests = self.buffers.iter_mut().filter_map(|b| b.request.as_mut());
        for request in requests.filter(|request| !request.cancelled) {
            request.cancelled = true;
            self.ring.cancel(request.token)?;
        }
        Ok(())
    }

    /// Waits for completions, and sees to them. Whether the bell was among them.
    pub(crate) fn wait(&mut self, load: &mut Load) -> Outcome<bool> {
        let (mut completions, mut rung) = (Vec::new(), false);
        self.ring.wait(&mut completions)?;
        for (user_data, answer) in completions {
            match user_data {
                CANCEL => {} // what counts is the completion of the request itself
                BELL => {
                    self.scene.bell.silence();
                    self.ring.poll(self.scene.bell.heard.as_fd())?;
                    rung = true;
                }
                token => self.complete(token, answer, load)?,
            }
        }
        Ok(rung)
    }

    /// The request is over, whichever way: now its pin is a pin again, and goes.
    fn complete(&mut self, token: u64, answer: i32, load: &mut Load) -> Outcome<()> {
        let pin = PinToken::from_u64(token).and_then(PinToken::redeem);
        let pin = pin.ok_or("a completion of no request")?;
        let n = (pin.range().start() / PAGES) as usize;
        let request = self.buffers[n].request.take();
        let request = request.ok_or("a completion of a buffer that is idle")?;
        self.busy -= 1;
        let early = load.finish(n, request.op, answer, request.cancelled)?;
        if request.cancelled {
            match early {
                true => self.counts.ended_early += 1,
                false => self.counts.ended_anyway += 1,
            }
        }
        match request.client.upgrade() {
            Some(shared) => shared.done.set(true),
            None => self.counts.for_nobody += 1,
        }
        self.scene.abandoned[n].store(false, Ordering::Relaxed);
        drop(pin);
        Ok(())
    }
}

/// Calls the ring's thread out of its sleep in the kernel: the waker of the buffers' tasks.
#[derive(Debug)]
pub(crate) struct Bell {
    rung: AtomicBool,
    rope: UnixDatagram,
    heard: UnixDatagram,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Arc<Bell>> {
        let (rope, heard) = UnixDatagram::pair()?;
        let rung = AtomicBool::new(false);
        Ok(Arc::new(Bell { rung, rope, heard }))
    }

    /// The next wake rings again.
    fn silence(&self) {
        // There is one, or the bell would not have been heard.
        let _ = self.heard.recv(&mut [0]);
        self.rung.store(false, Ordering::SeqCst);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // It can only fail when both ends are gone, and then nobody listens.
            let _ = self.rope.send(&[1]);
        }
    }
}
