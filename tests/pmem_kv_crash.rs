//! The store of `examples/pmem_kv` when the power fails: at every fence of random sequences of
//! operations, with every prefix of the stores before it, and with any of the lines that were not
//! flushed and fenced. After each such crash the pool must open without a finding and hold everything
//! that was acknowledged, whole, and what was under way wholly or not at all. One thread does it, or
//! several do it at once, in an order that is drawn.
//!
//! The controls leave out one flush or fence each, and must be caught.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/pmem_kv/store/mod.rs"]
mod store;

#[path = "pmem_kv_crash/baton.rs"]
mod baton;
#[path = "pmem_kv_crash/power.rs"]
mod power;
#[path = "pmem_kv_crash/record.rs"]
mod record;
#[path = "pmem_kv_crash/replay.rs"]
mod replay;

use std::thread;
use std::time::Instant;

use crate::record::{Forgotten, Like, Scene, record};
use crate::replay::{Count, Crashes};

const ALONE: Scene = Scene {
    capacity: 24,
    writers: 1,
    operations: 40,
    like: Like::Pmem,
    ends: 0,
    forgotten: None,
};
/// Sequences of operations, enough for so many crash states, and how many lines' subsets are drawn at a fence.
const SEQUENCES: u64 = 72;
const ENOUGH: u64 = 100_000;
const SAMPLES: usize = 9;

const TOGETHER: Scene = Scene {
    capacity: 40,
    writers: 3,
    operations: 12,
    ..ALONE
};
/// Of each kind of media: many orders rather than many subsets.
const RUNS: u64 = 28;
const ENOUGH_TOGETHER: u64 = 10_000;
const SAMPLES_TOGETHER: usize = 3;

/// A store that panics, or fails, does so while it is recorded: which run that is.
struct ToldOfPanics(u64, Scene);

impl Drop for ToldOfPanics {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("that was sequence {} of {:?}", self.0, self.1);
        }
    }
}

/// Of each kind of media, by one writer and by several, when others go on with what somebody has left.
const RUNS_AFTER_ENDS: u64 = 6;
const ENOUGH_AFTER_ENDS: u64 = 4_000;

/// Replays sequences on all processors; the counts, or the first fault.
fn run(scene: Scene, sequences: u64, samples: usize) -> Result<Count, String> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let one = |seed| -> Result<Count, String> {
        let _told = ToldOfPanics(seed, scene);
        let history = record(scene, seed);
        let mut crashes = Crashes::new(&history, scene, seed);
        let replayed = crashes.replay(scene, samples);
        replayed.map_err(|wrong| format!("sequence {seed} of {scene:?}, {wrong}"))?;
        Ok(crashes.count)
    };
    thread::scope(|scope| {
        let part = |me| move || (me..sequences).step_by(threads as usize).map(one).collect();
        let threads: Vec<_> = (0..threads).map(|me| scope.spawn(part(me))).collect();
        let mut sum = Count::default();
        for thread in threads {
            let counts: Result<Vec<Count>, String> = thread.join().unwrap();
            counts?.into_iter().for_each(|count| sum += count);
        }
        Ok(sum)
    })
}

/// [`run`], and what it counts printed; a fault printed as it is, which has lines.
fn sound(scene: Scene, sequences: u64, samples: usize) -> Count {
    let start = Instant::now();
    let count = run(scene, sequences, samples).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!(
        "{:?}, {} writers: {} crash states at {} fences, {} of them with some of the unfenced lines, {} with several \
         operations under way, {} used further; all sound; {:.1} s",
        scene.like,
        scene.writers,
        count.states,
        count.fences,
        count.partial,
        count.amid,
        count.used,
        start.elapsed().as_secs_f64()
    );
    count
}

#[test]
fn whatever_a_crash_leaves_is_a_sound_pool_with_everything_acknowledged() {
    let count = sound(ALONE, SEQUENCES, SAMPLES);
    assert!(
        count.states >= ENOUGH && count.partial >= ENOUGH / 2,
        "{count:?}"
    );
}

#[test]
fn whatever_a_crash_leaves_of_several_writers_is_a_sound_pool_with_everything_acknowledged() {
    for like in [Like::Pmem, Like::File] {
        let count = sound(Scene { like, ..TOGETHER }, RUNS, SAMPLES_TOGETHER);
        assert!(
            count.states >= ENOUGH_TOGETHER
                && count.partial >= ENOUGH_TOGETHER / 2
                && count.amid >= ENOUGH_TOGETHER / 2,
            "{count:?}"
        );
    }
}

/// The power fails after somebody was killed, or has failed to sync the file, and others have gone on with the pool.
#[test]
fn whatever_a_crash_leaves_of_a_pool_that_was_left_amid_something_is_sound_too() {
    for scene in [ALONE, TOGETHER] {
        for like in [Like::Pmem, Like::File] {
            let scene = Scene {
                like,
                ends: 3,
                ..scene
            };
            let count = sound(scene, RUNS_AFTER_ENDS, SAMPLES_TOGETHER);
            assert!(count.states >= ENOUGH_AFTER_ENDS, "{count:?}");
        }
    }
}

/// What is told of a fault is worth something only if it can be had again.
#[test]
fn the_same_seed_is_the_same_run_of_several_writers() {
    for like in [Like::Pmem, Like::File] {
        let [one, two] = [(); 2].map(|()| record(Scene { like, ..TOGETHER }, 5));
        assert!(one.log == two.log && one.operations == two.operations);
        let other = record(Scene { like, ..TOGETHER }, 6);
        assert!(one.log != other.log);
    }
}

/// An entry names a record that is not there, or an acknowledged change is not.
const DAMAGED: &str = ": slot ";
const LOST: &str = "neither the old nor the new contents";

/// The control: the store as it would be without that step must be caught, and for the right reason.
fn caught(scene: Scene, forgotten: Forgotten, reason: &str) {
    let forgotten = Some(forgotten);
    let scene = Scene { forgotten, ..scene };
    let wrong = run(scene, 4, SAMPLES).expect_err("nobody has noticed");
    println!("{wrong}");
    assert!(wrong.contains(reason), "{wrong}");
}

#[test]
fn control_without_the_flush_of_the_record() {
    caught(ALONE, Forgotten::RecordFlush, DAMAGED);
}

#[test]
fn control_without_the_fence_between_record_and_entry() {
    caught(ALONE, Forgotten::RecordFence, DAMAGED);
}

#[test]
fn control_without_the_flush_of_the_entry() {
    caught(ALONE, Forgotten::EntryFlush, LOST);
}

#[test]
fn control_without_the_fence_before_the_acknowledgement() {
    caught(ALONE, Forgotten::EntryFence, LOST);
}

/// A processor's fence waits for what its own thread has flushed. One writer alone never notices.
#[test]
fn control_of_several_writers_with_one_fence_for_two() {
    let forgotten = Forgotten::FenceAfterOthers;
    let alone = Scene {
        forgotten: Some(forgotten),
        ..ALONE
    };
    sound(alone, 4, SAMPLES);
    caught(TOGETHER, forgotten, LOST);
}
