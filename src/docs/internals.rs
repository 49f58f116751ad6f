//! How it works.
//!
#![doc = include_str!("../../docs/images.md")]
//!
//! ![pin, slot, unpin; break, gate, scan, wait, drained, free, reopen][flow]
//!
//! # The idea
//!
//! A pin is an exact range, written into a *slot* that belongs to the pinning thread. It costs the same for one page
//! and for 2^40, and pages that nobody pins cost nothing. A mapping has a *gate*: one word, 0 when nothing is closed.
//!
//! ```text
//!   pin    slot = range; barrier; gate open? -> pinned
//!                                 overlaps?  -> unpin; refused, or into the queue
//!   unpin  slot = free;  barrier; gate open? -> done
//!                                 overlaps?  -> lock; off the draining breaks; the last? -> wake
//!   break  lock; ticket; close the gate; barrier; nobody before it? -> scan; none left? -> drained
//!   reopen lock; out of the queue; those behind it: grant, drain; open the gate; wake
//! ```
//!
//! Pinner and breaker each store first and look second. Whoever comes first is seen by the other: so either the break
//! finds the pin and waits for it, or the pin finds the gate closed and steps back. That is Dekker's handshake; it
//! needs a barrier between the store and the look on both sides, and [`orderings`](super::orderings) is about
//! nothing else. Where breaks are rare, the breaker pays for both sides with one `membarrier`, and a pin is a few
//! plain stores and a load.
//!
//! The lock is the mapping's own. Only breaks take it, those who meet one, and holders of leases. A pin of open pages
//! never does, also while other pages are closed.
//!
//! # The promises
//!
//! They have numbers, which the source and the tests cite.
//!
#![doc = include_str!("../../docs/promises.md")]
//!
//! # The states
//!
//! ## A slot
//!
//! | state | who leaves it, and how |
//! | --- | --- |
//! | free | its thread, filling it |
//! | pinned | whoever has the pin, with one store; on any thread |
//! | pinned, and a scan has marked it | the same |
//! | pinned as an extension | the same; it cannot be extended itself |
//!
//! Only the thread that owns a slot fills it, so finding a free one needs no atomic update. Slots live for ever and
//! are recycled, so a pin borrows nothing and counts nothing. Slots of a thread that has exited are adopted by
//! another.
//!
//! A scan may meet a slot in the middle of being refilled, and read a mixture of two pins. Where the mixture says that
//! nobody is there, that is right: the older pin is over, and the newer one will look at the gate and step back. Before
//! a scan says that somebody is there, it marks the slot. Filling the slot takes the mark away; so with the mark still
//! there at the end, all that was read is one pin's.
//!
//! ## The gate
//!
//! | word | open? | who pins or unpins |
//! | --- | --- | --- |
//! | 0 | yes | needs no fence |
//! | fenced | yes | has a fence between store and look |
//! | names a table | the ranges in the table are closed | looks its range up, without a lock |
//! | final | no, for good | is refused |
//!
//! There are two tables. Breakers fill the one that the word does not name, then switch the word, whose value never
//! repeats. So a reader that finds the same word before and after has read one table, not halves of two.
//!
//! ## Who is in the queue
//!
//! | who | waits for earlier ones that overlap | then | who brings it there |
//! | --- | --- | --- | --- |
//! | pin, waiting | breaks | pinned | whoever reopens |
//! | lease, waiting | breaks | leased | whoever reopens |
//! | break, queued | breaks, waiting pins and leases | draining | whoever reopens |
//! | break, draining | the holders it has counted | drained: the proof | the last of them |
//! | break, drained | – | gone: reopened | the proof's drop |
//! | break of leases | waiting leases, then leases | drained | the last of them |
//! | retirement | like a break | ready: when its log position is durable, too | [`durable`](crate::LayoutGuard::durable), the last holder |
//! | anybody who waits | – | refused | [`close`](crate::LayoutGuard::close) |
//!
//! A draining break counts down. At zero the slots are scanned again, and only a clean scan makes a proof: so a count
//! that is too low costs one more scan. It is never too high: that would be a wake that never comes.
//!
//! # Waiting
//!
//! Each entry of the queue has an event of its own, and is looked at and listened to under one lock: there is no window
//! between looking and sleeping, and a wake cannot be eaten by somebody else. A blocking call spins for about as long
//! as a wake costs (20 µs) before it sleeps, looking at a word that changes when somebody is woken. A future never
//! spins. Whoever is woken is woken after the lock is released, for a waker is other people's code.
//!
//! # Leases
//!
//! Leases are in an ordered interval tree under the mapping's lock, not in slots, which every break looks through. A
//! break finds the k leases that overlap it among n in O(log n + k).
//!
//! # What is where
//!
//! The [map](crate#the-map) is on the front page. Each file opens with its problem, its idea, its states and its
//! orderings. Decisions and what was rejected are in `DESIGN.md`.
