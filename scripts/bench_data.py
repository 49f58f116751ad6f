"""What the benches wrote down: reading it, taking ratios within rounds, and which rows there must be."""

import json
import pathlib
import statistics

MODES = ["asymmetric", "fenced", "adaptive"]
RATIOS = [1, 3, 10, 30, 100, 300, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 60_000, 100_000, 300_000, 1_000_000]
CHANGING = ["changing: phases", "changing: random"]
OUTSTANDING = ["0", "1", "32", "1000", "100000", "1000000", "0 after"]
POWERS = [0, 10, 20, 30, 40]
COUNTER_POWERS = [0, 4, 8, 12, 16]
BREAK_POWERS = [0, 10, 20, 40, 60]
ELSEWHERE = ["undisturbed", "one closed range", "between two closed ranges"]
LEASES = ["0", "10^6"]
LEASE_CASES = ["break elsewhere", "one more and its drop"]
WHEN = ["before", "under", "after"]
HOLDS = [0, 1, 3, 10, 50, 1_000]
HOLDERS = [1, 8, 64]
FUTEX = "futex"
EVENT = "event-listener"
WAITERS = [FUTEX, EVENT] + [f"{mode} {kind}" for mode in MODES for kind in ("blocking", "async")]
PEERS = [
    "std RwLock", "parking_lot RwLock", "ShardedLock", "crossbeam-epoch", "seize", "haphazard", "Arc clone",
    "per-page AtomicU32", "Mutex<BTreeMap>", "range-lock", "tokio RwLock", "async-lock RwLock", "TaskTracker token",
]
EMPTY = "empty loop"
# Threads that ran for so much of a round at the same time count as having done so.
AT_ONCE = 0.9


def expected():
    """Every (bench, group, case) that a run must yield."""
    rows = []

    def add(bench, group, cases):
        rows.extend((bench, group, case) for case in cases)

    def modes(*suffixes):
        return [f"{mode}{suffix}" for suffix in suffixes for mode in MODES]

    add("pin", "one thread", [EMPTY] + MODES)
    add("pin", "range", [EMPTY] + modes(*(f" 2^{p}" for p in POWERS)))
    add("pin", "range", [f"per-page AtomicU32 2^{p}" for p in COUNTER_POWERS])
    for threads in (1, 2):
        add("pin", "two threads", [f"{case}, {threads} threads" for case in [EMPTY] + MODES])
    add("pin", "in flight", ["array replace", "Mutex<BTreeMap>"] + MODES)
    add("pin", "elsewhere", [EMPTY] + modes(*(f", {where}" for where in ELSEWHERE)))
    for group in ("one thread", "two threads"):
        add("peers", group, [EMPTY] + MODES + PEERS)
    tries = modes("", ", try_break_layouts")
    add("break", "idle", [EMPTY, "membarrier", "parking_lot write"] + tries)
    add("break", "other core pinning", [EMPTY, "membarrier", "parking_lot write"] + tries)
    add("break", "frequent", ["clock", "parking_lot write"] + MODES)
    add("break", "rare", ["clock", "membarrier"] + MODES)
    add("break", "range", modes(*(f" 2^{p}" for p in BREAK_POWERS)))
    add("break", "idle threads", modes(*(f", {when}" for when in WHEN)))
    add("outstanding", "memory", ["guard", "pin"])
    add("outstanding", "memory", [f"leases, {mode}" for mode in MODES])
    for count in LEASES:
        add("outstanding", "leases", [f"{mode}, {count}: {case}" for mode in MODES for case in LEASE_CASES])
    for count in OUTSTANDING:
        if count[0] != "0":
            add("outstanding", "memory", [f"{count} pins"])
        cases = [EMPTY, "pin and drop", "break elsewhere"] + (["replace the oldest"] if count[0] != "0" else [])
        for mode in MODES:
            add("outstanding", f"{count} outstanding, {mode}", cases)
    add("adaptive", "control", [EMPTY])
    for group in [f"ratio {ratio}" for ratio in RATIOS] + CHANGING:
        add("adaptive", group, MODES)
    add("wait_latency", "clock", ["a look at the clock"])
    for hold in HOLDS:
        for holders in HOLDERS:
            add("wait_latency", f"hold={hold} holders={holders}", WAITERS)
    return rows


class Results:
    """All lines of one run."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.lines = {}
        self.remarks = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                key = (entry["bench"], entry["group"], entry["case"])
                if "remark" in entry:
                    self.remarks[entry["case"]] = entry["remark"]
                else:
                    self.lines.setdefault(key, []).append(entry)

    def missing(self):
        return [key for key in expected() if key not in self.lines]

    def unknown(self):
        return sorted(set(self.lines) - set(expected()))

    def rounds(self, bench, group, case, number="ns"):
        """One value for each round."""
        lines = self.lines[(bench, group, case)]
        return [line[number] for line in lines if "round" in line and number in line]

    def merged(self, bench, group, case, number):
        """The value over all rounds together, where the bench itself merges them."""
        lines = self.lines[(bench, group, case)]
        return next(line[number] for line in lines if "rounds" in line)

    def once(self, bench, group, case, number):
        return self.lines[(bench, group, case)][0].get(number)

    def ratio(self, bench, group, case, other, number="ns"):
        """`case` over `other`, within each round."""
        above, below = (self.rounds(bench, group, c, number) for c in (case, other))
        return [a / b for a, b in zip(above, below) if b]

    def ratio_at_once(self, bench, group, case, other):
        """As `ratio`, of those rounds in which the threads of both really ran at the same time; and of how many."""
        ran = [min(both) for both in zip(*(self.rounds(bench, group, c, "ran") for c in (case, other)))]
        ratios = self.ratio(bench, group, case, other)
        count = [ratio for ratio, share in zip(ratios, ran) if share >= AT_ONCE]
        return (count if len(count) >= 3 else ratios), len(count), len(ratios)

    def difference(self, bench, group, case, other):
        return [a - b for a, b in zip(self.rounds(bench, group, case), self.rounds(bench, group, other))]

    def above_barrier(self, case):
        """What a break adds to a membarrier, where the two took turns."""
        columns = [self.rounds("break", "rare", case, number) for number in ("ns", "membarrier_ns")]
        return [a - b for a, b in zip(*columns)]

    def net_ratio(self, bench, group, case, other, control):
        """As `ratio`, without what `control` takes."""
        columns = [self.rounds(bench, group, c) for c in (case, other, control)]
        return [(a - c) / max(b - c, 1.0) for a, b, c in zip(*columns)]

    def to_better(self, group, case="adaptive"):
        """`case` over the better of the two fixed modes, within each round."""
        columns = [self.rounds("adaptive", group, c) for c in (case, "asymmetric", "fenced")]
        return [a / min(b, c) for a, b, c in zip(*columns)]

    def ran(self, bench, group, case):
        """The share of a round in which all threads really ran at the same time."""
        return self.rounds(bench, group, case, "ran")


def spread(values):
    """Median, least and greatest."""
    return (statistics.median(values), min(values), max(values))


def number(value):
    """Three digits that matter, and thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def shown(values):
    """`median [least, greatest]`."""
    if not values:
        return "–"
    middle, low, high = spread(values)
    return f"{number(middle)} [{number(low)}, {number(high)}]"
