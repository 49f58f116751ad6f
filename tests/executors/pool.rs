//! An executor: some threads and a queue of the tasks that have been woken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use crate::scenario::Task;

/// A task, and where it goes when it is woken. `None` in the queue: all is over.
struct Spawned {
    task: Mutex<Option<Task>>,
    queue: Sender<Option<Arc<Spawned>>>,
}

impl Wake for Spawned {
    fn wake(self: Arc<Self>) {
        let queue = self.queue.clone();
        // Woken after all was over: there is nobody left to poll it.
        let _ = queue.send(Some(self));
    }
}

pub(crate) fn run(tasks: Vec<Task>, threads: usize) {
    let (queue, woken) = mpsc::channel();
    let (left, woken) = (AtomicUsize::new(tasks.len()), Mutex::new(woken));
    for task in tasks {
        let task = Spawned {
            task: Mutex::new(Some(task)),
            queue: queue.clone(),
        };
        Arc::new(task).wake();
    }
    thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| work(&woken, &queue, &left, threads));
        }
    });
}

fn work(
    woken: &Mutex<Receiver<Option<Arc<Spawned>>>>,
    queue: &Sender<Option<Arc<Spawned>>>,
    left: &AtomicUsize,
    threads: usize,
) {
    loop {
        let next = woken.lock().unwrap().recv().unwrap();
        let Some(spawned) = next else {
            return;
        };
        let waker = Waker::from(Arc::clone(&spawned));
        let mut place = spawned.task.lock().unwrap();
        let Some(task) = place.as_mut() else {
            continue; // woken twice, and over after the first time
        };
        if let Poll::Ready(()) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            *place = None;
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                for _ in 0..threads {
                    queue.send(None).unwrap();
                }
            }
        }
    }
}
