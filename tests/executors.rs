//! The library without a runtime: one scenario of tasks that pin, await I/O and are cancelled, of scans whose
//! leases are recalled, and of compactors that lose their patience, on one executor after the other.
//!
//! The hand-written one polls a task only when that task was woken, so that a wake which is lost is a hang;
//! and a hang is a failure, by a watchdog. `block_on` polls everything at each wake, on one thread.
#![cfg(not(any(lease_loom, lease_shuttle)))]

#[path = "executors/pool.rs"]
mod pool;
#[path = "executors/scenario.rs"]
mod scenario;

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use crate::scenario::{Counts, Scenario, Task};

/// Everything happens on this executor, and nothing goes wrong.
fn all_goes_well_on(run: impl FnOnce(Vec<Task>) + Send + 'static) {
    let counts = on(run, false);
    assert!(counts.all_shown(), "{counts:?}");
    assert_eq!(counts.astray(), 0, "{counts:?}");
}

/// Runs the scenario, where `run` brings all tasks to their end.
fn on(run: impl FnOnce(Vec<Task>) + Send + 'static, pin_in_task: bool) -> Counts {
    let (done, ended) = mpsc::channel();
    let all = thread::spawn(move || {
        let scenario = Scenario::new(pin_in_task);
        run(scenario.tasks());
        let counts = scenario.end();
        done.send(()).unwrap();
        counts
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => all.join().unwrap(),
    }
}

/// Polls all of them at each wake, until they are over.
async fn all(mut tasks: Vec<Task>) {
    poll_fn(|cx| {
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        match tasks.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

fn on_tokio(tasks: Vec<Task>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn on_a_hand_written_executor() {
    for threads in [1, 2] {
        all_goes_well_on(move |tasks| pool::run(tasks, threads));
    }
}

#[test]
fn on_block_on() {
    all_goes_well_on(|tasks| futures_lite::future::block_on(all(tasks)));
}

#[test]
fn on_a_runtime() {
    all_goes_well_on(on_tokio);
}

/// The control: pins that go with the task, while the device goes on.
#[test]
fn pins_that_go_with_the_task_are_too_short() {
    let counts = on(|tasks| pool::run(tasks, 2), true);
    assert_ne!(counts.astray(), 0, "{counts:?}");
}
