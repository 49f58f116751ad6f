//! The scenario: a device that is slow, clients who change their minds, scans under leases, compactors.
//!
//! Time does not matter here: patience is counted in polls, and it goes on until everything has happened that
//! is to be shown.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_lite::future::{or, yield_now};
use layout_lease::maps::ExtentMap;
use layout_lease::{LayoutGuard, PagePin, PageRange};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

const PAGES: u64 = 16;

/// Pages that get the blocks which are freed.
const HEIRS: u64 = 4;

const CLIENTS: u64 = 6;
const COMPACTORS: u64 = 2;

/// Breaks at least, and at most if something that is to happen does not.
const BREAKS: u64 = 300;
const MOST: u64 = 100_000;

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    done: AtomicU64,
    cancelled: AtomicU64,
    /// I/O that ended when its task was gone.
    outlived: AtomicU64,
    timeouts: AtomicU64,
    kept: AtomicU64,
    given_up: AtomicU64,
    recalled: AtomicU64,
    moved: AtomicU64,
    breaks: AtomicU64,
    /// I/O that found other blocks behind its pages than it was told.
    astray: AtomicU64,
}

impl Counts {
    /// Whether everything has happened that is to be shown.
    pub(crate) fn all_shown(&self) -> bool {
        let all = [
            &self.done,
            &self.cancelled,
            &self.outlived,
            &self.kept,
            &self.given_up,
            &self.recalled,
            &self.moved,
        ];
        all.iter().all(|count| get(count) > 0)
    }

    pub(crate) fn astray(&self) -> u64 {
        get(&self.astray)
    }
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}

/// The end of a request, for whoever awaits it.
#[derive(Default)]
struct Completion {
    state: Mutex<(bool, Option<Waker>)>,
}

impl Completion {
    fn complete(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap();
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A request to the device, which has the pin.
struct Request {
    pages: PageRange,
    blocks: Vec<Option<u64>>,
    pin: Option<PagePin>,
    completion: Weak<Completion>,
}

struct Engine {
    guard: Arc<LayoutGuard<ExtentMap>>,
    device: Mutex<Option<Sender<Request>>>,
    pin_in_task: bool,
    counts: Counts,
    over: AtomicBool,
}

pub(crate) struct Scenario {
    engine: Arc<Engine>,
    device: JoinHandle<()>,
}

impl Scenario {
    pub(crate) fn new(pin_in_task: bool) -> Scenario {
        let guard = Arc::new(LayoutGuard::new(ExtentMap::new(PAGES + COMPACTORS * HEIRS)));
        guard.map().allocate(0..PAGES).unwrap();
        let (device, requests) = mpsc::channel();
        let engine = Arc::new(Engine {
            guard,
            device: Mutex::new(Some(device)),
            pin_in_task,
            counts: Counts::default(),
            over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&engine);
        let device = thread::spawn(move || shared.serve(&requests));
        Scenario { engine, device }
    }

    pub(crate) fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for n in 0..CLIENTS {
            tasks.push(Box::pin(client(Arc::clone(&self.engine), n)));
        }
        for n in 0..COMPACTORS {
            tasks.push(Box::pin(compactor(Arc::clone(&self.engine), n)));
        }
        tasks.push(Box::pin(scan(Arc::clone(&self.engine))));
        tasks
    }

    /// All tasks are over: what is left is what the device has, and then nobody holds anything.
    pub(crate) fn end(self) -> Counts {
        let guard = &self.engine.guard;
        guard.close().wait();
        self.engine.device.lock().unwrap().take();
        self.device.join().unwrap();
        let stats = guard.stats();
        assert_eq!((stats.pins, stats.leases, stats.queued), (0, 0, 0));
        let engine = Arc::into_inner(self.engine).expect("a task is left");
        engine.counts
    }
}

impl Engine {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// After a break: was it the last one?
    fn count_break(&self) {
        let breaks = self.counts.breaks.fetch_add(1, Ordering::Relaxed);
        let shown = match self.pin_in_task {
            false => self.counts.all_shown(),
            true => self.counts.astray() > 0,
        };
        if breaks >= MOST || breaks >= BREAKS && shown {
            self.over.store(true, Ordering::Release);
        }
    }

    fn blocks(&self, pages: PageRange) -> Vec<Option<u64>> {
        let map = self.guard.map();
        (pages.start()..pages.end())
            .map(|page| map.lookup(page))
            .collect()
    }

    /// The device: takes its time, and then looks whether the blocks are still those of the pages.
    fn serve(&self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut batch = vec![first];
            while let Ok(next) = requests.recv_timeout(Duration::from_micros(100)) {
                batch.push(next);
                if batch.len() == 4 {
                    break;
                }
            }
            for request in batch {
                let right = self.blocks(request.pages) == request.blocks;
                add(&self.counts.astray, u64::from(!right));
                drop(request.pin);
                match request.completion.upgrade() {
                    Some(completion) => completion.complete(),
                    None => add(&self.counts.outlived, 1),
                }
            }
        }
    }

    /// Dropped at any point, the request goes on, and has the pin.
    async fn io(&self, pin: PagePin) {
        let pages = pin.range();
        let (carried, kept) = match self.pin_in_task {
            false => (Some(pin), None),
            true => (None, Some(pin)),
        };
        let completion = Arc::new(Completion::default());
        let request = Request {
            pages,
            blocks: self.blocks(pages),
            pin: carried,
            completion: Arc::downgrade(&completion),
        };
        let device = self.device.lock().unwrap().clone();
        device.unwrap().send(request).unwrap();
        completion.wait().await;
        drop(kept);
    }
}

fn some_pages(random: &mut SmallRng, longest: u64) -> PageRange {
    let start = random.random_range(0..PAGES);
    let end = PAGES.min(start + random.random_range(1..=longest));
    PageRange::new(start, end).unwrap()
}

/// Is over after so many polls.
async fn polls(n: u64) {
    for _ in 0..n {
        yield_now().await;
    }
}

async fn client(engine: Arc<Engine>, n: u64) {
    let mut random = SmallRng::seed_from_u64(n);
    while !engine.is_over() {
        let pages = some_pages(&mut random, 4);
        let operation = async {
            let pin = engine.guard.pin(pages).await.unwrap();
            engine.io(pin).await;
            &engine.counts.done
        };
        let patience = match random.random() {
            true => random.random_range(0..4),
            false => u64::MAX,
        };
        let cancelled = async {
            // One who never cancels need not be polled for it.
            match patience {
                u64::MAX => std::future::pending().await,
                n => polls(n).await,
            }
            &engine.counts.cancelled
        };
        add(or(operation, cancelled).await, 1);
    }
}

async fn compactor(engine: Arc<Engine>, n: u64) {
    let mut random = SmallRng::seed_from_u64(100 + n);
    let (guard, counts) = (&engine.guard, &engine.counts);
    let heirs = PageRange::new(PAGES + n * HEIRS, PAGES + (n + 1) * HEIRS).unwrap();
    while !engine.is_over() {
        yield_now().await; // also if nobody is ever in the way
        let pages = some_pages(&mut random, 4);
        let mut breaking = guard.break_layouts(pages);
        let in_time = async { Some((&mut breaking).await) };
        let too_late = async {
            polls(random.random_range(1..20)).await;
            None
        };
        let proof = match or(in_time, too_late).await {
            Some(proof) => Some(proof.unwrap()),
            None => {
                add(&counts.timeouts, 1);
                assert!(guard.try_pin(pages).is_err(), "open under a break");
                if random.random() {
                    add(&counts.kept, 1);
                    Some(breaking.await.unwrap())
                } else {
                    drop(breaking);
                    add(&counts.given_up, 1);
                    None
                }
            }
        };
        if let Some(proof) = proof {
            add(&counts.moved, proof.punch_hole(pages).unwrap());
            guard.map().allocate(heirs).unwrap();
            guard.map().allocate(pages).unwrap();
            drop(proof);
            guard.punch_hole(heirs).await.unwrap();
        }
        engine.count_break();
    }
}

/// Holds a lease of everything until it is wanted, and uses it meanwhile.
async fn scan(engine: Arc<Engine>) {
    while !engine.is_over() {
        let lease = engine.guard.lease(0..PAGES).labelled("scan").await.unwrap();
        let mut next = 0;
        let recalled = loop {
            let page = next;
            next = (next + 1) % PAGES;
            let step = async {
                let pin = engine.guard.pin(page..=page).await.unwrap();
                engine.io(pin).await;
                false
            };
            let recalled = async {
                lease.recalled().await;
                true
            };
            if or(recalled, step).await {
                break true;
            }
            if engine.is_over() {
                break false;
            }
        };
        add(&engine.counts.recalled, u64::from(recalled));
        drop(lease);
    }
}
