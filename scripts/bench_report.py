#!/usr/bin/env python3
"""Writes BENCHMARKS.md, docs/plots/*.svg and a summary into docs/performance.md from what the benches wrote down.

    bench_report.py RESULTS            into the repository
    bench_report.py RESULTS --smoke    into RESULTS; fails if a row is missing or unknown
"""

import os
import pathlib
import subprocess
import sys

import bench_doc
import bench_plot as plot
import bench_targets as targets
from bench_data import (
    BREAK_POWERS, CHANGING, COUNTER_POWERS, ELSEWHERE, EMPTY, FUTEX, HOLDERS, HOLDS, LEASE_CASES, LEASES, MODES, OUTSTANDING, PEERS, POWERS,
    RATIOS, WAITERS, WHEN, Results, number, shown, spread,
)


def command(*words):
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(head, rows):
    marks = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks] + rows)


def shares(values):
    """Like `shown`, in per cent."""
    middle, low, _ = spread(values)
    return f"{middle:.0%}, at least {low:.0%}"


def machine(results):
    cpu = next(
        (l.split(":")[1].strip() for l in open("/proc/cpuinfo", encoding="utf-8") if l.startswith("model name")), "unknown"
    )
    read = lambda name: (results.folder / name).read_text().strip() if (results.folder / name).exists() else "?"
    return table(
        ["", ""],
        [
            ["machine", f"{cpu}, {len(os.sched_getaffinity(0))} cores"],
            ["kernel", command("uname", "-sr")],
            ["rustc", command("rustc", "--version")],
            ["commit", read("commit")],
            ["command", "`scripts/bench.sh`"],
            ["when", f"{read('when')}; {read('seconds')} s; load average at the start {read('load')}"],
        ],
    ).replace("--:", "---")


def pins(results):
    group = lambda name, case: shown(results.rounds("pin", name, case))
    out = ["## Pin", "", "`try_pin` and the drop of what it yields, in ns.", ""]
    out.append(table(["one thread", "ns"], [[case, group("one thread", case)] for case in [EMPTY] + MODES]))
    out += ["", "![pin cost against range length](docs/plots/pin_range.svg)", ""]
    rows = [[f"2^{p}"] + [group("range", f"{mode} 2^{p}") for mode in MODES] for p in POWERS]
    out.append(table(["pages"] + MODES, rows))
    rows = [[f"2^{p}", group("range", f"per-page AtomicU32 2^{p}")] for p in COUNTER_POWERS]
    out += ["", "For contrast, a counter for each page:", "", table(["pages", "per-page AtomicU32"], rows), ""]
    rows = []
    for case in [EMPTY] + MODES:
        two = f"{case}, 2 threads"
        ratio = results.ratio("pin", "two threads", two, f"{case}, 1 threads")
        ran = shares(results.ran("pin", "two threads", two))
        rows.append([case, group("two threads", f"{case}, 1 threads"), group("two threads", two), shown(ratio), ran])
    head = ["threads on one page", "1 thread", "2 threads", "2 / 1", "ran at the same time"]
    out += [table(head, rows), ""]
    cases = ["array replace"] + MODES + ["Mutex<BTreeMap>"]
    rows = [[c, group("in flight", c), shown(results.ratio("pin", "in flight", c, cases[0]))] for c in cases]
    out += [table(["32 in flight", "ns", "/ array replace"], rows), ""]
    rows = []
    for mode in MODES:
        row = [mode]
        for where in ELSEWHERE:
            row.append(group("elsewhere", f"{mode}, {where}"))
            if where != "undisturbed":
                ratio = results.ratio("pin", "elsewhere", f"{mode}, {where}", f"{mode}, undisturbed")
                row[-1] += f"; x {shown(ratio)}"
        rows.append(row)
    out.append(table(["while breaks wait elsewhere"] + ELSEWHERE, rows))
    return out


def peers(results):
    ours = "adaptive"
    groups = ["one thread", "two threads"]
    rows = []
    for case in [EMPTY] + MODES + PEERS:
        row = [case]
        for group in groups:
            row.append(shown(results.rounds("peers", group, case)))
            row.append(shown(results.ratio("peers", group, ours, case)))
        ran = results.ran("peers", "two threads", case)
        rows.append(row + [shares(ran), results.remarks.get(case, "–")])
    head = ["", "1 thread", f"{ours} / it", "2 threads, one page", f"{ours} / it", "ran at the same time", "what it cannot do"]
    return [
        "## Peers", "", "The same pin-like work, taken and given back, in ns.", "",
        "![pin cost against peers](docs/plots/pin_peers.svg)", "", table(head, rows).replace("--: |\n", "--- |\n", 1),
    ]


def breaks(results):
    out = ["## Break", "", "`break_layouts(..).wait()` and the drop of the proof, nobody holding a page, in ns.", ""]
    lock = "parking_lot write"
    for group in ("idle", "other core pinning"):
        cases = [c + s for s in ("", ", try_break_layouts") for c in MODES] + ["membarrier", lock]
        rows = []
        for case in cases:
            row = [case, shown(results.rounds("break", group, case)), shown(results.ratio("break", group, case, lock))]
            rows.append(row + [shown(results.rounds("break", group, case, "other_ops"))])
        head = [group, "ns", f"/ {lock}", "the other core's operations per µs"]
        out += [table(head, rows), ""]
    rows = []
    for case in ["clock"] + MODES + [lock]:
        net = results.net_ratio("break", "frequent", case, lock, "clock")
        rows.append([case, shown(results.rounds("break", "frequent", case)), "–" if case == "clock" else shown(net)])
    head = ["after ten or more operations of another core", "ns", f"/ {lock}, both without the clock"]
    out += [table(head, rows), ""]
    rows = []
    for case in ["clock", "membarrier"] + MODES:
        more = shown(results.above_barrier(case))
        rows.append([case, shown(results.rounds("break", "rare", case)), more])
    out += [table(["after 100,000 pins, another core running", "ns", "more than a membarrier beside it"], rows), ""]
    rows = [[f"2^{p}"] + [shown(results.rounds("break", "range", f"{m} 2^{p}")) for m in MODES] for p in BREAK_POWERS]
    out += [table(["pages"] + MODES, rows), ""]
    rows = [[w] + [shown(results.rounds("break", "idle threads", f"{m}, {w}")) for m in MODES] for w in WHEN]
    out.append(table(["1,024 idle threads that have pinned once"] + MODES, rows))
    return out


def outstanding(results):
    out = ["## Outstanding pins", "", "![break cost against outstanding pins](docs/plots/break_outstanding.svg)", ""]
    head = ["outstanding", "mode", "one more pin and its drop, ns", "replace the oldest, ns", "break elsewhere, ns", "B per pin"]
    rows = []
    for count in OUTSTANDING:
        for mode in MODES:
            cells = []
            for case in ("pin and drop", "replace the oldest", "break elsewhere"):
                key = ("outstanding", f"{count} outstanding, {mode}", case)
                cells.append(shown(results.rounds(*key)) if key in results.lines else "–")
            each = "–" if count[0] == "0" else number(results.once("outstanding", "memory", f"{count} pins", "bytes_each"))
            rows.append([count, mode] + cells + [each])
    out += [table(head, rows), ""]
    out.append("Bytes are resident ones, of a process that takes so many pins and nothing else; the first pin takes whole pages.")
    rows = []
    for mode in MODES:
        for count in LEASES:
            cases = [f"{mode}, {count}: {case}" for case in LEASE_CASES]
            each = number(results.once("outstanding", "memory", f"leases, {mode}", "bytes_each")) if count != "0" else "–"
            rows.append([count, mode] + [shown(results.rounds("outstanding", "leases", c)) for c in cases] + [each])
    out += ["", table(["leases outstanding", "mode"] + [f"{case}, ns" for case in LEASE_CASES] + ["B per lease"], rows)]
    once = lambda case, key: number(results.once("outstanding", "memory", case, key))
    out += [
        "",
        f"A pin's handle is {once('pin', 'handle_bytes')} B. {once('guard', 'count')} guards: "
        f"{once('guard', 'bytes_each')} B resident for each, of which {once('guard', 'handle_bytes')} B are the handle.",
    ]
    return out


def adaptive(results):
    out = ["## Adaptive", "", "![adaptive sweep](docs/plots/adaptive.svg)", ""]
    out += ["One cycle: so many pins and drops, then one break; in ns. Another core of the process runs."]
    out += ["The last column counts what that core loses to interruptions, too (against the fenced mode).", ""]
    rows = []
    for group in [f"ratio {r}" for r in RATIOS] + CHANGING:
        name = number(int(group.split()[1])) if group.startswith("ratio") else group
        times = [shown(results.rounds("adaptive", group, mode)) for mode in MODES]
        rows.append([name] + times + [shown(results.to_better(group)), shown(with_victim(results, group))])
    head = ["pins per break"] + MODES + ["adaptive / better fixed", "the same, both cores' time"]
    loop = shown(results.rounds("adaptive", "control", EMPTY))
    return out + [table(head, rows), "", f"The empty loop, which is in these once for each pin: {loop} ns."]


def with_victim(results, group):
    """As `to_better`, with the time that the other core lost added."""
    columns = [results.rounds("adaptive", group, m) for m in MODES]
    speeds = [results.rounds("adaptive", group, m, "other_ops") for m in MODES]
    ratios = []
    for times, ops in zip(zip(*columns), zip(*speeds)):
        full = max(ops)
        if not full: # nothing ran beside it
            continue
        both = [t * (2 - o / full) for t, o in zip(times, ops)]
        ratios.append(both[2] / min(both[:2]))
    return ratios


def waits(results):
    out = ["## Wait latency", "", "![wait latency percentiles](docs/plots/wait_latency.svg)", ""]
    out += ["From the last release to the proof in hand: p50 / p99 / p99.9 over all rounds, in ns.", ""]
    for title, keys in (("", ["p50", "p99", "p999"]), ("What the last drop costs who drops: p50 / p99, in ns.", ["release_p50", "release_p99"])):
        rows = []
        for hold in HOLDS:
            for holders in HOLDERS:
                row = [str(hold), str(holders)]
                for case in WAITERS:
                    merged = [results.merged("wait_latency", f"hold={hold} holders={holders}", case, k) for k in keys]
                    row.append(" / ".join(number(m) for m in merged))
                rows.append(row)
        out += ([title, ""] if title else []) + [table(["hold, µs", "holders"] + WAITERS, rows), ""]
    rows = []
    for hold in HOLDS:
        ratios = [results.ratio("wait_latency", f"hold={hold} holders=1", c, FUTEX, "p50") for c in WAITERS[2:]]
        rows.append([str(hold)] + [shown(r) for r in ratios])
    out += ["p50 over that of a bare futex, one holder, within each round:", ""]
    out.append(table(["hold, µs"] + WAITERS[2:], rows))
    clock = shown(results.rounds("wait_latency", "clock", "a look at the clock"))
    return out + ["", f"A look at the clock, which is in every one of these: {clock} ns."]


def summary(results, verdict):
    """What docs/performance.md shows: a few medians, and what was found about the targets."""
    middle = lambda *key: number(spread(results.rounds(*key))[0])
    rows = []
    for case in [EMPTY] + MODES + ["haphazard", "crossbeam-epoch", "seize", "Arc clone", "ShardedLock", "parking_lot RwLock", "std RwLock", "Mutex<BTreeMap>"]:
        name = f"`{case}`" if "<" in case else case
        rows.append([name, middle("peers", "one thread", case), middle("peers", "two threads", case)])
    pins = table(["pin and drop, ns", "1 thread", "2 threads, one page"], rows)
    columns = ["idle", "other core pinning", "frequent", "rare"]
    rows = [[case] + [middle("break", group, case) for group in columns] for case in MODES]
    control = [middle("break", group, "membarrier") if group != "frequent" else "–" for group in columns]
    locks = [middle("break", group, "parking_lot write") if group != "rare" else "–" for group in columns]
    rows += [["membarrier"] + control, ["parking_lot write"] + locks]
    breaks = table(["break of an idle page, ns"] + columns, rows)
    return "\n".join([f"Medians of the run in `BENCHMARKS.md`; {verdict}.", "", pins, "", breaks])


def draw(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    middle = lambda *key: spread(results.rounds(*key))
    pages = {1: "1", 2**10: "2^10", 2**20: "2^20", 2**30: "2^30", 2**40: "2^40"}
    series = [(m, [(2**p, *middle("pin", "range", f"{m} 2^{p}")) for p in POWERS]) for m in MODES]
    counters = [(2**p, *middle("pin", "range", f"per-page AtomicU32 2^{p}")) for p in COUNTER_POWERS]
    charts = {
        "pin_range": plot.lines(
            "Pin and drop, over the length of the range", "pages", "ns", series + [("per-page AtomicU32", counters)],
            ticks=pages.items(),
        )
    }
    rows = []
    for case in MODES + PEERS:
        rows.append((case, [middle("peers", group, case) for group in ("one thread", "two threads")]))
    groups = ["1 thread", "2 threads, one page"]
    charts["pin_peers"] = plot.bars("Pin and drop, against what peers offer", "ns (logarithmic)", groups, rows)
    series = []
    for mode in MODES:
        counts = [c for c in OUTSTANDING if c.isdigit() and c != "0"]
        points = [(int(c), *middle("outstanding", f"{c} outstanding, {mode}", "break elsewhere")) for c in counts]
        series.append((mode, points))
    charts["break_outstanding"] = plot.lines(
        "Break of an idle page, over outstanding pins", "outstanding pins", "ns", series
    )
    ticks = [(h + 1, str(h)) for h in HOLDS]
    series = []
    for case, key in ((FUTEX, "p50"), ("adaptive blocking", "p50"), ("adaptive async", "p50"), (FUTEX, "p99"), ("adaptive blocking", "p99"), ("adaptive async", "p99")):
        # One more than the hold time: 0 has no place on a logarithmic scale.
        points = [(h + 1, *middle("wait_latency", f"hold={h} holders=1", case, key)) for h in HOLDS]
        series.append((f"{case}, {key}", [tuple(max(v, 1) for v in p) for p in points]))
    charts["wait_latency"] = plot.lines(
        "From the last release to the proof, one holder", "held after the break began, µs", "ns", series, ticks=ticks
    )
    series = [(m, [(r, *spread(results.to_better(f"ratio {r}", m))) for r in RATIOS]) for m in MODES]
    charts["adaptive"] = plot.lines(
        "Pins and breaks together, over the better fixed mode", "pins per break", "times the better fixed mode", series,
        limits=[(1.3, "1.3")],
    )
    for name, svg in charts.items():
        (folder / f"{name}.svg").write_text(svg)


def main():
    results = Results(sys.argv[1])
    smoke = "--smoke" in sys.argv[2:]
    missing, unknown = results.missing(), results.unknown()
    for what, rows in (("missing", missing), ("unknown to the report", unknown)):
        for row in rows:
            print(f"row {what}: {' | '.join(row)}", file=sys.stderr)
    if missing or unknown:
        sys.exit(f"{len(missing)} rows missing, {len(unknown)} unknown")
    root = results.folder if smoke else pathlib.Path(__file__).resolve().parent.parent
    target_table, verdict = targets.table(results)
    sections = [
        ["# Benchmarks", "", "Written by `scripts/bench.sh`; do not edit. Times are `median [least, greatest]` over the rounds of one run, in which"],
        ["the cases of a table took turns; ratios are taken within each round. Empty loops are not subtracted.", "", machine(results), ""],
        ["## Targets", "", "Ratios and differences within this run; the median counts.", "", target_table],
    ]
    sections += [[""] + part(results) for part in (pins, peers, breaks, outstanding, adaptive, waits)]
    (root / "BENCHMARKS.md").write_text("\n".join(line for part in sections for line in part) + "\n")
    draw(results, root / "docs" / "plots")
    words = summary(results, verdict)
    if not smoke:
        bench_doc.fill(root / "docs" / "performance.md", "summary", words)
    print(f"{len(results.lines)} rows, none missing; {verdict if not smoke else 'the numbers mean nothing'}")
    print(f"wrote {root / 'BENCHMARKS.md'}")


main()
