//! How to use it, from a block map to a compactor.
//!
//! The rule of all that follows: **pin, then look the block up, then do I/O, then drop the pin.** What was looked
//! up before pinning may have been freed before the pin was granted.
//!
//! # A block map in three steps
//!
//! A [`BlockMap`] is your side: which block is behind which page, and where blocks go that are not used any more.
//!
//! **1.** Keep the map and the free list behind `&self`: operations may run on any thread.
//!
//! ```
//! use std::sync::Mutex;
//!
//! /// Pages of a segment, each in a slot of an arena.
//! struct Segment {
//!     slots: Mutex<Vec<Option<usize>>>, // page -> slot
//!     free: Mutex<Vec<usize>>,
//! }
//! ```
//!
//! **2.** Implement [`punch_hole`](crate::BlockMap::punch_hole), and of the other four what your engine has. Ask the proof
//! first whether it is of this mapping, and whether it covers the pages: then nobody can make you free a block by
//! mistake.
//!
//! ```
//! # use std::sync::Mutex;
//! # struct Segment { slots: Mutex<Vec<Option<usize>>>, free: Mutex<Vec<usize>> }
//! use layout_lease::{BlockMap, Drained, OpError, PageRange};
//!
//! impl BlockMap for Segment {
//!     type Error = std::convert::Infallible; // what can go wrong in the engine: here nothing
//!
//!     fn punch_hole(&self, pages: PageRange, proof: &Drained<'_, Self>) -> Result<u64, OpError<Self::Error>> {
//!         if !proof.is_of(self) {
//!             return Err(OpError::WrongMapping);
//!         }
//!         if !proof.covers(pages) {
//!             return Err(OpError::NotCovered);
//!         }
//!         let mut slots = self.slots.lock().unwrap();
//!         let (start, end) = (pages.start() as usize, pages.end().min(slots.len() as u64) as usize);
//!         let gone = slots.get_mut(start..end).unwrap_or_default();
//!         let gone: Vec<usize> = gone.iter_mut().filter_map(Option::take).collect();
//!         self.free.lock().unwrap().extend(&gone); // from here on, somebody else may have them
//!         Ok(gone.len() as u64)
//!     }
//! }
//! ```
//!
//! What fails in the engine itself goes out as [`OpError::Map`](crate::OpError::Map): `?` alone turns only errors of
//! ranges and breaks into an `OpError`, so it is `file.sync_data().map_err(OpError::Map)?`.
//!
//! **3.** Give it to a guard, and let no block leave the mapping but through the guard.
//!
//! ```
//! # use std::sync::Mutex;
//! # use layout_lease::{BlockMap, Drained, OpError, PageRange};
//! # struct Segment { slots: Mutex<Vec<Option<usize>>>, free: Mutex<Vec<usize>> }
//! # impl BlockMap for Segment {
//! #     type Error = std::convert::Infallible;
//! #     fn punch_hole(&self, pages: PageRange, _: &Drained<'_, Self>) -> Result<u64, OpError<Self::Error>> {
//! #         let mut slots = self.slots.lock().unwrap();
//! #         let gone = slots[pages.start() as usize..pages.end() as usize].iter_mut();
//! #         let gone: Vec<usize> = gone.filter_map(Option::take).collect();
//! #         self.free.lock().unwrap().extend(&gone);
//! #         Ok(gone.len() as u64)
//! #     }
//! # }
//! use layout_lease::LayoutGuard;
//!
//! let segment = LayoutGuard::new(Segment {
//!     slots: Mutex::new((0..8).map(Some).collect()),
//!     free: Mutex::new(Vec::new()),
//! });
//! assert_eq!(segment.punch_hole(2..4).wait()?, 2);
//! assert_eq!(*segment.map().free.lock().unwrap(), [2, 3]);
//! assert!(segment.truncate(4).wait().is_err()); // not implemented: `OpError::Unsupported`
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What comes *into* the mapping needs no proof: a hole has no block that anybody could be using. But it needs a pin. A
//! break keeps out pins, not your own allocator; so map a block in, and write to it, under a pin of its page, and no
//! truncate, punch or collapse comes in between. (Pages beyond the end can be pinned like any others.) Two who fill the
//! same hole both have a pin: which of them was first, the map decides, under its own lock.
//!
//! # A blocking engine
//!
//! A reader on its own thread, and somebody who cuts the segment off. The cutter gives up after a while, and says
//! why; what is closed stays closed until the value is dropped, so nobody slips in between two tries.
//!
//! ```
//! use layout_lease::{LayoutGuard, TryPinError, maps::ExtentMap};
//! use std::{sync::Arc, thread, time::Duration};
//!
//! let segment = Arc::new(LayoutGuard::new(ExtentMap::new(64)));
//! segment.map().allocate(0..16)?;
//!
//! let reader = thread::spawn({
//!     let segment = Arc::clone(&segment);
//!     move || match segment.try_pin(3..4) {
//!         Ok(pin) => {
//!             let block = segment.map().lookup(3); // after the pin
//!             // ... read the block ...
//!             drop(pin);
//!             block.is_some()
//!         }
//!         Err(TryPinError::Breaking) => false, // it is being freed: look the key up again, it has moved
//!         Err(_) => false,
//!     }
//! });
//!
//! let mut cut = segment.truncate(2); // closed from here on
//! let freed = loop {
//!     match cut.wait_timeout(Duration::from_secs(5)) {
//!         Some(result) => break result?,
//!         None => {
//!             for holder in cut.breaking().holders() {
//!                 eprintln!("still waiting for {holder}"); // pages, source line, thread, since when
//!             }
//!         }
//!     }
//! };
//! assert_eq!(freed, 14);
//! reader.join().unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A reader that must have the page waits for it with [`pin`](crate::LayoutGuard::pin) instead. Two habits keep it free of
//! deadlocks: take all pages of a request in one pin, and do not wait for a pin while you hold another. A request
//! that finds in the middle that it needs one more page [extends](crate::PagePin::extend) what it has.
//!
//! # An async engine
//!
//! The same values are futures, on any runtime or none. What must not depend on a future is the pin: a task that is
//! dropped in the middle of an I/O does not stop the device. So the pin goes to whoever hears of the completion.
//!
//! ```
//! use layout_lease::{LayoutGuard, PagePin, maps::ExtentMap};
//! use std::{sync::Arc, time::Duration};
//! use tokio::{sync::oneshot, time::timeout};
//!
//! /// Stands for the device: it has the pin until the I/O is over, and only then answers.
//! async fn device(pin: PagePin, done: oneshot::Sender<u64>) {
//!     tokio::time::sleep(Duration::from_millis(200)).await;
//!     let pages = pin.range().len();
//!     drop(pin); // the completion
//!     done.send(pages).ok(); // perhaps nobody listens any more
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let file = Arc::new(LayoutGuard::new(ExtentMap::new(64)));
//!     file.map().allocate(0..16)?;
//!
//!     let read = tokio::spawn({
//!         let file = Arc::clone(&file);
//!         async move {
//!             let pin = file.pin(4..8).await?;
//!             let (done, answer) = oneshot::channel();
//!             tokio::spawn(device(pin, done));
//!             Ok::<_, layout_lease::PinError>(answer.await)
//!         }
//!     });
//!     tokio::task::yield_now().await;
//!     tokio::task::yield_now().await;
//!     read.abort(); // cancelled, with its I/O in flight
//!
//!     let mut punch = file.punch_hole(0..16);
//!     let early = timeout(Duration::from_millis(1), &mut punch).await;
//!     assert!(early.is_err()); // the device is still at it, so nothing was freed; the pages stay closed
//!     assert_eq!(punch.await?, 16);
//!     Ok(())
//! }
//! ```
//!
//! A break that is to be stored or spawned comes from [`break_layouts_arc`](crate::LayoutGuard::break_layouts_arc), which
//! keeps the guard alive itself; its proof has the block operations, [`punch_hole`](crate::Drained::punch_hole) and the
//! others. Those of the guard borrow it: a task that has the guard in an `Arc` calls them inside, and the pages are closed
//! when it gets there. A block operation calls your block map on the thread that polls it: if that call may block, wait for it
//! on a thread for such work.
//!
//! # Registered buffers
//!
//! What is held over many requests is not a pin but a [`LayoutLease`]: a buffer registered with a ring, memory
//! registered with an RDMA card. A break asks for it back, its holder unregisters, and then the break goes on.
//!
//! ```
//! use layout_lease::{LayoutGuard, PinToken};
//! use std::thread;
//!
//! let arena = LayoutGuard::<()>::default(); // no block map: pins and proofs alone
//! let mut lease = arena.lease(0..64).labelled("ring 0").wait()?; // register_buffers
//!
//! // One request on buffer 8. Its pin is a number while the ring has it.
//! let user_data = arena.try_pin(8..9)?.into_token().to_u64();
//!
//! thread::scope(|s| {
//!     s.spawn(|| {
//!         let proof = arena.break_layouts(32..).wait().unwrap(); // the upper half is wanted
//!         // ... unmap it ...
//!         drop(proof);
//!     });
//!     let wanted = lease.recalled().wait(); // or `.await` beside the ring's completions
//!     // ... unregister what is wanted, then say so ...
//!     lease.shrink_to(..wanted.start()).unwrap();
//! });
//! assert_eq!(lease.range().len(), 32);
//!
//! // The completion of the request: a number that is no token, or was redeemed before, is `None`.
//! let pin = PinToken::from_u64(user_data).and_then(PinToken::redeem);
//! assert!(pin.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is wanted may be any part of the lease: its beginning, where `shrink_to(wanted.end()..)` keeps the rest, its
//! middle, of which one side can be kept, or all of it, and then the lease is dropped, for it cannot be shrunk to nothing.
//! Each [`recalled`](crate::LayoutLease::recalled) hears of one recall; so ask again after each answer.
//!
//! Cancelling a request is not completing it. Keep its token until its own completion has come. An engine that has a
//! table of its requests anyway needs no token: it keeps the pin in the table, and the place in the table in `user_data`.
//!
//! # Compaction
//!
//! A compactor copies what is alive to a better place, lets the index name the new place, and frees the old one when
//! the last reader has gone. It need not wait for that reader: it [retires](crate::LayoutGuard::retire) the old pages, and
//! somebody frees them later.
//!
//! ```
//! use layout_lease::{LayoutGuard, maps::ExtentMap};
//! use std::{collections::HashMap, sync::{Arc, Mutex}};
//!
//! let segment = Arc::new(LayoutGuard::new(ExtentMap::new(64)));
//! segment.map().allocate(0..32)?;
//! let index = Mutex::new(HashMap::from([("k", 5)])); // key -> page
//!
//! // A reader of the old place, which takes its time: pin, then look again.
//! let page = index.lock().unwrap()["k"];
//! let reader = segment.try_pin(page..page + 1)?;
//! assert_eq!(index.lock().unwrap()["k"], page);
//!
//! // 1. Copy, under a pin of the old and of the new place.
//! let (old, new) = (segment.try_pin(5..6)?, segment.try_pin(0..1)?);
//! // ... copy page 5 to page 0 ...
//! // 2. Publish: whoever looks from now on finds the new place.
//! index.lock().unwrap().insert("k", 0);
//! drop((old, new));
//! // 3. Retire the old place. What is on media names it until log record 17 is there, too.
//! drop(segment.retire_after(5..6, 17));
//!
//! // Later, where such work may run (`retired_ready` waits for it):
//! segment.durable(17); // the log has been flushed
//! assert_eq!(segment.run_retired(), 0); // the reader is still there
//! drop(reader);
//! assert_eq!(segment.run_retired(), 1); // now the block goes back
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three things make this safe, and each is easy to leave out:
//!
//! - The reader looks at the index *again* after pinning. In between, its page may have been freed and reused.
//! - The index names the new place *before* the old one is retired. So a reader that is refused
//!   ([`TryPinError::Breaking`](crate::TryPinError::Breaking)) finds the new place when it looks again, and need not wait.
//! - Blocks that the media still names are not reused: a crash would find them.
//!
//! A thread that alone frees needs no pin of the old place: nobody else takes it away. Where pages *are* the places, as in
//! a log of segments on one file, hand a segment out again after the proof is gone, for under it the next owner's pins
//! are refused. A map of your own cannot call a map that ships, whose methods take proofs of their own kind: keep the
//! free list beside the guard. `examples/segment_store` does all of this on a plain file, with `maps::FileBlocks`.
//!
//! To move pages from one file into another under one proof, break both with
//! [`break_layouts_of`](crate::break_layouts_of): one order for all, so two who do it in opposite directions do not
//! deadlock.
//!
//! When the mapping itself goes, [`close`](crate::LayoutGuard::close) it: later pins are refused, and waiting for the value
//! waits for the last holder.
//!
//! # Watching it run
//!
//! [`holders`](crate::LayoutGuard::holders) and [`stats`](crate::LayoutGuard::stats) answer when they are asked. The features
//! `tracing` and `metrics` tell by themselves, from slow paths only: never from a pin or its drop, and never under a lock.
//!
//! | number (feature `metrics`) | kind | event (feature `tracing`) | when |
//! | --- | --- | --- | --- |
//! | `layout_lease_breaks_total` | counter | – | a break is called, of leases and retirements too |
//! | `layout_lease_breaks_waited_total` | counter | – | and finds somebody to wait for |
//! | `layout_lease_break_wait_seconds` | histogram, seconds | warning, from 1 s on | a break that had to wait has its proof |
//! | – | – | warning, each second | a blocking call still waits for holders |
//! | `layout_lease_break_timeouts_total` | counter | info | a timeout or deadline has passed |
//! | `layout_lease_recalls_total` | counter, leases | debug | a break recalls leases |
//! | `layout_lease_retirements_failed_total` | counter | warning | blocks of a retirement were not freed, and nobody waits for it |
//! | `layout_lease_guards_left_behind_total` | counter | warning | a guard is dropped while somebody holds its pages |
//!
//! [`BlockMap`]: crate::BlockMap
//! [`LayoutLease`]: crate::LayoutLease
