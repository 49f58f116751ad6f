//! Arbitrary numbers redeemed as tokens, between real ones that come and go: whatever is no token that is out
//! redeems to nothing and harms nobody, and one that is out gives the very pin that it was made of.

use layout_lease::{LayoutGuard, PagePin, PageRange, PinToken, TryPinError};

use crate::bytes::Bytes;
use crate::outcome::Seen;

/// What is tried: the crate's functions, or for the control broken ones.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) make: fn(PagePin) -> u64,
    pub(crate) redeem: fn(u64) -> Option<PagePin>,
}

pub(crate) const REAL: Subject = Subject {
    make: |pin| pin.into_token().to_u64(),
    redeem: |number| PinToken::from_u64(number).and_then(PinToken::redeem),
};

const GUARDS: usize = 2;
const STEPS: usize = 64;

/// Threads that one input may start. They cost more than all the rest, and a sanitized process may start some four
/// million in its life, which a fuzzer gets to in minutes.
const PASSING: usize = 2;

/// A pin as it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    guard: usize,
    pages: PageRange,
}

#[derive(Default)]
struct Scene {
    guards: [LayoutGuard<()>; GUARDS],
    pins: Vec<(Held, PagePin)>,
    /// Tokens that are out.
    out: Vec<(Held, u64)>,
    /// Numbers that were.
    stale: Vec<u64>,
    /// Threads that have pinned and gone.
    passed: usize,
}

impl Drop for Scene {
    /// Also on the way out of a failure: what is left out would be in the way of all that comes later.
    fn drop(&mut self) {
        for (_, number) in self.out.drain(..) {
            drop((REAL.redeem)(number));
        }
    }
}

impl Scene {
    fn pin(&mut self, bytes: &mut Bytes<'_>, passing: bool) {
        let (guard, start, len) = (bytes.below(GUARDS), bytes.number(), bytes.byte());
        let Ok(pages) = PageRange::new(start, start.saturating_add(len.into())) else {
            return;
        };
        let passing = passing && self.passed < PASSING;
        self.passed += usize::from(passing);
        let take = || self.guards[guard].try_pin(pages);
        let pin = match passing {
            false => take(),
            // On a thread that is gone then: its slots are nobody's, and the next one's.
            true => std::thread::scope(|s| s.spawn(take).join()).expect("no panic"),
        };
        let pin = pin.expect("nothing is closed");
        self.pins.push((Held { guard, pages }, pin));
    }

    /// Redeems any number at all.
    fn redeem(&mut self, number: u64, subject: Subject, seen: &mut Seen) {
        let token = PinToken::from_u64(number);
        assert_eq!(token.is_some(), number >> 32 & 1 == 1, "{number:#x}");
        assert!(token.is_none_or(|token| token.to_u64() == number));

        let at = self.out.iter().position(|(_, out)| *out == number);
        let pin = (subject.redeem)(number);
        match (at, pin) {
            (Some(at), Some(pin)) => {
                let (held, _) = self.out.swap_remove(at);
                self.stale.push(number);
                self.pins.push((held, pin));
                seen.push("redeemed");
            }
            (None, None) => seen.push(match number {
                _ if self.stale.contains(&number) => "stale",
                _ if self.out.iter().any(|(_, out)| *out as u32 == number as u32) => {
                    "another generation"
                }
                _ if number >> 32 & 1 == 0 => "implausible",
                _ => "invented",
            }),
            (at, pin) => panic!("{number:#x}: expected {at:?}, got {pin:?}"),
        }
    }

    /// What can be seen is what should be there.
    fn agree(&self) {
        for (held, pin) in &self.pins {
            assert_eq!(pin.range(), held.pages);
            for (n, guard) in self.guards.iter().enumerate() {
                let more = pin.extend(guard, held.pages);
                let wrong = matches!(more, Err(TryPinError::WrongGuard));
                assert_eq!(wrong, n != held.guard, "of which guard: {more:?}");
                assert!(wrong || more.is_ok(), "{more:?}");
            }
        }
        for (n, guard) in self.guards.iter().enumerate() {
            let tokens = self.out.iter().map(|(held, _)| held);
            let held = self.pins.iter().map(|(held, _)| held).chain(tokens);
            let mut pages: Vec<_> = held.filter(|h| h.guard == n).map(|h| h.pages).collect();
            let mut found: Vec<_> = guard.holders(..).iter().map(|h| h.range()).collect();
            pages.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, pages, "who holds pages of guard {n}");
        }
    }
}

pub(crate) fn run(data: &[u8], subject: Subject, seen: &mut Seen) {
    let mut bytes = Bytes::new(data);
    let mut scene = Scene::default();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        let kind = bytes.byte();
        let pick = usize::from(kind >> 3);
        match kind & 7 {
            0 => scene.pin(&mut bytes, pick == 31),
            1 if !scene.pins.is_empty() => {
                let at = pick % scene.pins.len();
                drop(scene.pins.swap_remove(at));
            }
            2 if !scene.pins.is_empty() => {
                let at = pick % scene.pins.len();
                let (held, pin) = scene.pins.swap_remove(at);
                let number = (subject.make)(pin);
                assert_ne!(number, 0);
                assert!(!scene.stale.contains(&number), "a number came again");
                scene.out.push((held, number));
            }
            3 if !scene.out.is_empty() => {
                let (_, number) = scene.out[pick % scene.out.len()];
                scene.redeem(number, subject, seen);
            }
            4 if !scene.stale.is_empty() => {
                let number = scene.stale[pick % scene.stale.len()];
                scene.redeem(number, subject, seen);
            }
            // Beside one that is out: a bit of it, or so many slots or generations further.
            5 if !scene.out.is_empty() => {
                let (_, number) = scene.out[pick % scene.out.len()];
                let by = bytes.number();
                let forged = match bytes.byte() {
                    bit @ 0..=63 => number ^ 1 << bit,
                    64..=127 => number.wrapping_add(by),
                    128..=191 => number.wrapping_add(by << 33),
                    _ => number ^ by,
                };
                scene.redeem(forged, subject, seen);
            }
            6 => {
                let slot = bytes.number() as u32;
                let generation = bytes.number() as u32;
                let number = u64::from(generation) << 32 | u64::from(slot);
                scene.redeem(number, subject, seen);
            }
            7 => scene.redeem(bytes.number(), subject, seen),
            _ => continue,
        }
        scene.agree();
    }
    let tokens: Vec<u64> = scene.out.iter().map(|(_, number)| *number).collect();
    for number in tokens {
        scene.redeem(number, subject, seen);
    }
    scene.agree();
    scene.pins.clear();
    for guard in &scene.guards {
        assert!(guard.try_break_layouts(..).is_ok(), "a pin is left");
    }
}
