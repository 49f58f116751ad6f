//! What the features `tracing` and `metrics` tell, and that nothing is told from the drop of a pin or under a
//! lock.
#![cfg(not(any(lease_loom, lease_shuttle)))]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use layout_lease::{BlockMap, Drained, LayoutGuard, OpError, PageRange, break_layouts_of};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tracing::field::{Field, Visit};
use tracing::span;

/// Everything that was told, events and numbers, with the thread that told it. The listener looks at the guard
/// too, as one may: it would hang under a lock.
#[derive(Default)]
struct Told {
    events: Mutex<Vec<(thread::ThreadId, String)>>,
    numbers: Mutex<HashMap<String, u64>>,
}

static TOLD: LazyLock<Told> = LazyLock::new(|| {
    metrics::set_global_recorder(Numbers).unwrap();
    tracing::subscriber::set_global_default(Events).unwrap();
    Told::default()
});
static GUARD: LazyLock<LayoutGuard<()>> = LazyLock::new(LayoutGuard::default);

impl Told {
    fn events(&self, part: &str) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(_, e)| e.contains(part)).count()
    }

    fn number(&self, name: &str) -> u64 {
        self.numbers.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

struct Events;

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let _ = GUARD.stats();
        let told = (thread::current().id(), text.0);
        TOLD.events.lock().unwrap().push(told);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

struct Numbers;
struct Number(String);

impl Number {
    fn add(&self, n: u64) {
        let _ = GUARD.stats();
        *TOLD
            .numbers
            .lock()
            .unwrap()
            .entry(self.0.clone())
            .or_default() += n;
    }
}

impl CounterFn for Number {
    fn increment(&self, n: u64) {
        self.add(n);
    }
    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Number {
    fn record(&self, _: f64) {
        self.add(1);
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::new(Number(key.name().into())))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Number(key.name().into())))
    }
}

/// An engine that cannot free anything.
struct Broken;

impl BlockMap for Broken {
    type Error = std::io::Error;

    fn punch_hole(
        &self,
        _: PageRange,
        _: &Drained<'_, Self>,
    ) -> Result<u64, OpError<std::io::Error>> {
        Err(OpError::Map(std::io::ErrorKind::Other.into()))
    }
}

/// One test, for the listeners are the process's.
#[test]
fn long_waits_timeouts_recalls_and_leaks_are_told() {
    let told = &*TOLD;
    let breaks = |name: &str| told.number(&format!("layout_lease_{name}"));

    // Nothing to tell of a pin, nor of a break that does not wait.
    drop(GUARD.try_pin(0..1).unwrap());
    drop(GUARD.break_layouts(0..1).wait().unwrap());
    assert_eq!(told.events(""), 0);
    assert_eq!(
        (breaks("breaks_total"), breaks("breaks_waited_total")),
        (1, 0)
    );

    // A long wait, told twice while it lasts, in different words, and once when it is over.
    let (pin, lease) = (
        GUARD.try_pin(0..1).unwrap(),
        GUARD.lease(0..4).wait().unwrap(),
    );
    let holder = thread::spawn(move || {
        while TOLD.events("a break still waits for holders") == 0 {
            thread::yield_now();
        }
        drop((lease, pin));
    });
    let holder_id = holder.thread().id();
    drop(GUARD.break_layouts(0..2).wait().unwrap());
    holder.join().unwrap();
    assert_eq!(told.events("a break waits for holders"), 1);
    assert!(told.events("a break still waits for holders") >= 1);
    assert_eq!(
        told.events("a break has got its proof after a long wait"),
        1
    );
    assert_eq!(told.events("a break recalls leases"), 1);
    assert!(told.events("ranges=[0..2]") >= 3, "{:?}", told.events);
    assert_eq!(breaks("recalls_total"), 1);
    assert_eq!(breaks("breaks_waited_total"), 1);
    assert_eq!(breaks("break_wait_seconds"), 1);

    // A timeout, and a guard dropped under a live holder.
    let guard = LayoutGuard::<()>::default();
    let pin = guard.try_pin(0..1).unwrap();
    let mut breaking = guard.break_layouts(0..1);
    assert!(breaking.wait_timeout(Duration::from_millis(1)).is_none());
    assert_eq!(told.events("a break has not got its proof in time"), 1);
    assert_eq!(breaks("break_timeouts_total"), 1);
    drop(breaking);
    drop(guard);
    assert_eq!(
        told.events("a guard was dropped while somebody holds its pages"),
        1
    );
    assert_eq!(breaks("guards_left_behind_total"), 1);
    drop(pin);

    // A wait for several guards, and a closing; and a timeout that is long is told before it has passed.
    let guards = [(); 2].map(|()| LayoutGuard::<()>::default());
    let pins = guards.each_ref().map(|g| g.try_pin(3..4).unwrap());
    let leases = guards.each_ref().map(|g| g.lease(3..4).wait().unwrap());
    let pages = PageRange::new(3, 5).unwrap();
    let waited = breaks("break_wait_seconds");
    let long = Duration::from_millis(1_200);
    thread::scope(|s| {
        let several = s.spawn(|| {
            let mut both = break_layouts_of(&[(&guards[0], pages), (&guards[1], pages)]);
            assert!(both.wait_timeout(long).is_none());
            both
        });
        let mut both = several.join().unwrap();
        assert_eq!(told.events("ranges=[3..5]"), 4, "{:?}", told.events);
        assert_eq!(told.events("a break recalls leases"), 3);
        assert_eq!(told.events("a break waits for holders"), 2);
        assert_eq!(told.events("a break has not got its proof in time"), 2);
        assert_eq!(breaks("breaks_waited_total"), 4);
        drop((pins, leases));
        drop(both.wait_timeout(long).unwrap().unwrap());
        assert_eq!(breaks("break_wait_seconds"), waited + 1);
    });
    let [guard, _] = guards;
    let pin = guard.try_pin(0..1).unwrap();
    let mut closing = guard.close();
    assert!(closing.wait_timeout(long).is_none());
    assert_eq!(told.events("a break waits for holders"), 3);
    drop(pin);
    closing.wait();
    assert_eq!(breaks("break_wait_seconds"), waited + 2);

    // Blocks that are not freed, and nobody else hears of it.
    let guard = Arc::new(LayoutGuard::new(Broken));
    drop(guard.retire(0..4));
    assert_eq!(guard.run_retired(), 0);
    assert!(guard.retire(0..4).wait().is_err());
    assert_eq!(
        told.events("the blocks of a retirement have not been freed"),
        1
    );
    assert_eq!(breaks("retirements_failed_total"), 1);
    assert_eq!(guard.stats().retired_failed, 1);

    // Whoever only holds, tells nothing.
    let events = told.events.lock().unwrap();
    assert!(events.iter().all(|(thread, _)| *thread != holder_id));
}
