//! Other threads to do things on: two that live on until they are replaced, and as many as
//! needed that exit at once.

use std::cell::RefCell;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle, ThreadId};

use crate::steps::Who;

type Job = Box<dyn FnOnce() + Send>;

struct Hand {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Hand {
    fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let thread = thread::spawn(move || inbox.iter().for_each(|job| job()));
        Hand { jobs, thread }
    }
}

/// The threads. They exit when this is dropped.
pub(crate) struct Hands(RefCell<[Hand; 2]>);

impl Hands {
    pub(crate) fn new() -> Self {
        Hands(RefCell::new([Hand::new(), Hand::new()]))
    }

    /// Lets a thread exit, whatever pins it took, and puts another in its place. Returns who went.
    pub(crate) fn replace(&self, which: usize) -> ThreadId {
        let old = std::mem::replace(&mut self.0.borrow_mut()[which], Hand::new());
        let gone = old.thread.thread().id();
        drop(old.jobs);
        old.thread.join().expect("no panic");
        gone
    }

    /// The thread that `who` names, if it is still there afterwards.
    pub(crate) fn thread(&self, who: Who) -> Option<ThreadId> {
        match who {
            Who::Me => Some(thread::current().id()),
            Who::Hand(which) => Some(self.0.borrow()[which].thread.thread().id()),
            Who::Passing => None,
        }
    }

    /// Runs `job` on the thread that `who` names, and waits for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        who: Who,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match who {
            Who::Me => job(),
            Who::Hand(which) => {
                let (result, back) = channel();
                let job = Box::new(move || result.send(job()).unwrap_or(()));
                let jobs = self.0.borrow()[which].jobs.clone();
                jobs.send(job).expect("the thread lives");
                back.recv().expect("the thread answers")
            }
            Who::Passing => thread::spawn(job).join().expect("no panic"),
        }
    }
}
