#!/usr/bin/env python3
"""cargo-mutants' mutants of src/raw and src/breaking.rs, against the tests of std: all of them in one build.

  scripts/cargo_mutants.py all [FILE...]  what is below, one after the other; of these files (`gate`, `turns`) or of all
  scripts/cargo_mutants.py build          a copy of the crate with every mutant in it, and the tests
  scripts/cargo_mutants.py cover          which test reaches which mutants, and how long it takes
  scripts/cargo_mutants.py run [FILE...]  each mutant that is in the build, with quick tests
  scripts/cargo_mutants.py slow [FILE...] what those have missed, with the others
  scripts/cargo_mutants.py deep           what has survived, under the scenes of shuttle
  scripts/cargo_mutants.py alone          each that is not and may compile, in a build of its own
  scripts/cargo_mutants.py report         the table, and what survives without a word in docs/mutants.md

A mutant is a branch on a number that the process is given as it starts (scripts/mutate); a build for each would take
days. Only tests that reach it are run, quick ones first, until one fails or hangs. A mutant that no branch can
say (in a constant, or of a function that returns `impl Trait`) is built by itself. Everything is kept in
target/cargo-mutants, and `run` goes on where it was stopped.

A test that hangs counts as one that notices; so does one that is killed because it did not end in time on a machine
that was too busy: such a verdict is `timeout`, and stands in a column of its own.
"""

import collections
import concurrent.futures
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "cargo-mutants"
COPY = TARGET / "tree"
CARGO_MUTANTS = os.environ.get("CARGO_MUTANTS", "cargo-mutants")
# The unit tests and those of the promises; then what else takes little time.
TESTS = ["promises", "edges", "twin", "kernel_parity", "executors"]
# Seconds. Tests that are long say little more than short ones: only what has survived those meets them.
QUICK = 0.2
# So long may a batch of tests be silent, and ten times what the longest of them takes.
PATIENCE = 8.0
JOBS = int(os.environ.get("CARGO_MUTANTS_JOBS", 2))
# In the order in which a mistake would hurt.
ORDER = """gate turns scan slots blocks queue wait waits wakes breaking taking protocol record barrier entry adapt
    ending retiring due leases leasing together tree chunks shelf spills tokens told arena""".split()

SWITCH = """
/// Whether this mutant is the one that is active.
pub(crate) fn mutant(n: u32) -> bool {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    static ACTIVE: OnceLock<u32> = OnceLock::new();
    static TRACE: OnceLock<Option<std::fs::File>> = OnceLock::new();
    static SEEN: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if SEEN[n as usize].load(Relaxed) {
        return *ACTIVE.get_or_init(|| number("MUTANT").unwrap_or(0)) == n;
    }
    SEEN[n as usize].store(true, Relaxed);
    let open = || std::fs::File::options().append(true).create(true).open(std::env::var("MUTANT_TRACE").ok()?).ok();
    if let Some(mut file) = TRACE.get_or_init(open).as_ref() {
        let _ = file.write_all(format!("{n}\\n").as_bytes());
    }
    *ACTIVE.get_or_init(|| number("MUTANT").unwrap_or(0)) == n
}
"""


def cargo_env():
    env = dict(os.environ)
    env["CARGO_TARGET_DIR"] = str(TARGET / "build")
    env["CARGO_PROFILE_DEV_DEBUG"] = env["CARGO_PROFILE_TEST_DEBUG"] = "0"
    # As in the sources: nothing is optimised. Only warnings of what is mutated are of no use.
    env["RUSTFLAGS"] = "-Awarnings"
    return env


def mutants():
    return json.loads((TARGET / "list.json").read_text())


def stem(mutant):
    return Path(mutant["file"]).stem


def fresh_copy(copy=COPY):
    copy.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        text, to = (ROOT / name).read_bytes(), copy / name
        if not to.exists() or to.read_bytes() != text:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(text)


def block_of(text, at):
    """The mutant in whose branch the byte `at` lies, or whose condition begins there."""
    condition = re.match(rb"crate::mutant\((\d+)\)", text[at:at + 40])
    if condition:
        return int(condition[1])
    for found in reversed(list(re.finditer(rb"crate::mutant\((\d+)\) \{", text[:at + 1]))):
        depth = 0
        for byte in range(found.end() - 1, len(text)):
            depth += {0x7B: 1, 0x7D: -1}.get(text[byte], 0)
            if depth == 0:
                if byte >= at:
                    return int(found[1])
                break
        if found.start() < at - 20_000:
            break
    return None


def build():
    TARGET.mkdir(parents=True, exist_ok=True)
    scope = [w for f in ("src/raw/*.rs", "src/breaking.rs") for w in ("--file", f)]
    listed = subprocess.run([CARGO_MUTANTS, "mutants", "--list", "--json", *scope], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    (TARGET / "list.json").write_text(listed)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    (TARGET / "commit").write_text(commit.stdout)
    tool = TARGET / "tool"
    subprocess.run(["cargo", "build", "-q", "--release", "--locked", "--manifest-path", ROOT / "scripts/mutate/Cargo.toml"],
                   env=dict(os.environ, CARGO_TARGET_DIR=str(tool)), check=True)
    # A function that returns `impl Trait` returns one type, and a branch would return another.
    why = {n: "impl Trait" for n, m in enumerate(mutants(), 1)
           if m["genre"] == "FnValue" and "impl " in (m.get("function") or {}).get("return_type", "")}
    skipped, listing = set(why), mutants()
    for attempt in range(40):
        fresh_copy()
        env = dict(os.environ, SKIP=",".join(map(str, sorted(skipped))))
        left_out = subprocess.run([tool / "release/mutate", TARGET / "list.json", COPY], env=env, check=True,
                                  capture_output=True, text=True).stdout.split()
        for n in map(int, left_out):
            why.setdefault(n, "no branch")
        lib = COPY / "src/lib.rs"
        lib.write_text(lib.read_text() + SWITCH)
        lines = subprocess.run(["cargo", "check", "--lib", "--profile", "test", "--locked", "--message-format=json"], cwd=COPY,
                               env=cargo_env(), capture_output=True, text=True).stdout.splitlines()
        new, lost = {}, []
        for line in lines:
            message = json.loads(line).get("message")
            if not isinstance(message, dict) or message.get("level") != "error" or not message["spans"]:
                continue
            spans = sorted(message["spans"], key=lambda s: not s["is_primary"])
            code = (message.get("code") or {}).get("code", "?")
            hits = [block_of((COPY / s["file_name"]).read_bytes(), s["byte_start"]) for s in spans
                    if (COPY / s["file_name"]).exists()]
            hit = next((h for h in hits if h), None)
            if code == "E0004":
                # A match that is no longer exhaustive: by the next arm that may be deleted.
                text = (COPY / spans[0]["file_name"]).read_bytes()[spans[0]["byte_end"]:]
                numbers = map(int, re.findall(rb"crate::mutant\((\d+)\)", text))
                hit = next(n for n in numbers if listing[n - 1]["genre"].startswith("MatchArm"))
            if hit:
                new.setdefault(hit, code)
            else:
                lost.append(message["rendered"])
        print(f"build: attempt {attempt}: {len(new)} do not compile", flush=True)
        if not new:
            if lost:
                sys.exit("".join(lost[:5]))
            break
        skipped |= set(new)
        why.update(new)
    (TARGET / "why.json").write_text(json.dumps(why))
    arguments = [w for t in TESTS for w in ("--test", t)]
    made = subprocess.run(["cargo", "test", "--lib", *arguments, "--no-run", "--locked", "--message-format=json"],
                          cwd=COPY, env=cargo_env(), stdout=subprocess.PIPE, text=True)
    if made.returncode:
        rendered = [(json.loads(line).get("message") or {}) for line in made.stdout.splitlines()]
        sys.exit("".join(m["rendered"] for m in rendered if m.get("level") == "error"))
    made = made.stdout
    binaries = {}
    for line in made.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            binaries[message["target"]["name"].replace("layout-lease", "lib").replace("layout_lease", "lib")] = message["executable"]
    (TARGET / "binaries.json").write_text(json.dumps(binaries))
    print(f"build: {len(mutants())} mutants, {len(why)} in no branch, {len(binaries)} binaries")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def play(binary, tests, env, patience):
    """How these tests end: `passed`, the name of one that fails, or `timeout` when none has ended for so long."""
    process = subprocess.Popen([binary, "--exact", "--test-threads", "2", *tests], cwd=COPY, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True,
                               env=dict(os.environ, CARGO_MANIFEST_DIR=str(COPY), RUST_BACKTRACE="0",
                                        PROPTEST_CASES="64", **env))
    ready = selectors.DefaultSelector()
    ready.register(process.stdout, selectors.EVENT_READ)
    last, seen, verdict = time.monotonic(), b"", None
    while verdict is None:
        if ready.select(timeout=0.5):
            some = os.read(process.stdout.fileno(), 65536)
            if not some:
                verdict = "passed" if process.wait() == 0 else "died"
                break
            seen, last = seen + some, time.monotonic()
            failed = re.search(rb"test (\S+)(?: - should panic)? \.\.\. FAILED", seen)
            if failed:
                verdict = failed[1].decode()
        elif time.monotonic() - last > patience:
            verdict = "timeout"
    # Only what this run has started.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    process.stdout.close()
    return verdict


def cover():
    binaries = json.loads((TARGET / "binaries.json").read_text())
    found = []
    trace = TARGET / "trace"
    for name, binary in binaries.items():
        listing = subprocess.run([binary, "--list", "--format", "terse"], cwd=COPY, check=True, capture_output=True,
                                 text=True).stdout
        for test in re.findall(r"^(\S+): test$", listing, re.M):
            trace.unlink(missing_ok=True)
            start = time.monotonic()
            verdict = play(binary, [test], {"MUTANT_TRACE": str(trace)}, 300)
            reached = sorted(set(map(int, trace.read_text().split()))) if trace.exists() else []
            found.append({"binary": name, "test": test, "seconds": time.monotonic() - start, "mutants": reached})
            if verdict != "passed":
                found.pop()
                print(f"cover: {name} {test}: {verdict}, left out", flush=True)
    (TARGET / "cover.json").write_text(json.dumps(found))
    print(f"cover: {len(found)} tests, {sum(f['seconds'] for f in found):.0f} s")


def of_files(names):
    everything = list(enumerate(mutants(), 1))
    order = {name: n for n, name in enumerate(ORDER)}
    wanted = [(n, m) for n, m in everything if not names or stem(m) in names]
    return sorted(wanted, key=lambda w: (order.get(stem(w[1]), 99), w[0]))


def verdicts_of(*names):
    """Of each mutant the last."""
    rows = [row for name in names for row in rows_of(TARGET / f"{name}.jsonl")]
    return list({row["number"]: row for row in rows}.values())


def alone(number, mutant):
    """A mutant in a build of its own: does it compile, and what do the unit tests and tests/promises say?"""
    copy = TARGET / "alone-tree"
    fresh_copy(copy)
    path = copy / mutant["file"]
    lines = path.read_text().splitlines(keepends=True)
    start, end = mutant["span"]["start"], mutant["span"]["end"]
    head = "".join(lines[:start["line"] - 1]) + lines[start["line"] - 1][:start["column"] - 1]
    tail = lines[end["line"] - 1][end["column"] - 1:] + "".join(lines[end["line"]:])
    path.write_text(head + mutant["replacement"] + tail)
    env = cargo_env()
    env["CARGO_TARGET_DIR"] = str(TARGET / "alone")
    if subprocess.run(["cargo", "check", "-q", "--lib", "--locked"], cwd=copy, env=env, capture_output=True).returncode:
        return "unviable", "-"
    made = subprocess.run(["cargo", "test", "--lib", "--test", "promises", "--test", "edges", "--no-run", "--locked",
                           "--message-format=json"], cwd=copy, env=env, capture_output=True, text=True)
    if made.returncode:
        return "caught", "does not build with the tests"
    for line in made.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            verdict = play(message["executable"], [], {}, 60)
            if verdict != "passed":
                return ("timeout" if verdict == "timeout" else "caught"), verdict
    return "missed", "-"


def run(names, slow=False):
    """Quick tests; or what those have missed with the others, which say so in a file of their own."""
    binaries = json.loads((TARGET / "binaries.json").read_text())
    why = {int(n): code for n, code in json.loads((TARGET / "why.json").read_text()).items()}
    covers = collections.defaultdict(list)
    for row in json.loads((TARGET / "cover.json").read_text()):
        for n in row["mutants"]:
            covers[n].append(row)
    results = TARGET / ("slow.jsonl" if slow else "results.jsonl")
    done = {row["number"] for row in rows_of(results)}
    if slow:
        done |= {row["number"] for row in rows_of(TARGET / "results.jsonl") if row["verdict"] != "missed"}
        ran = {row["number"] for row in rows_of(TARGET / "results.jsonl")}
        done |= {n for n, _ in of_files(names) if n not in ran}
    killers = collections.Counter()

    def one(number, mutant):
        start = time.monotonic()
        verdict, by = "missed", "-"
        if number in why:
            kind = (mutant.get("function") or {}).get("return_type", "")
            # What has the wrong type in a branch has it everywhere; but all that a branch returns has one type.
            if mutant["genre"] == "FnValue" and "impl " not in kind:
                verdict, by = "unviable", why[number]
            else:
                verdict, by = "alone", why[number]
        else:
            rows = sorted(covers[number], key=lambda r: (r["seconds"] - 10 * (killers[r["test"]] > 0), r["seconds"]))
            if not rows:
                by = "reached by no test"
            rows = [r for r in rows if (r["seconds"] < QUICK) != slow]
            while rows and verdict == "missed":
                # About a second's worth of one binary.
                binary, some, spent = rows[0]["binary"], [], 0.0
                for row in rows:
                    if row["binary"] == binary and (not some or spent + row["seconds"] < 1.0) and len(some) < 40:
                        some.append(row)
                        spent += row["seconds"]
                rows = [r for r in rows if r not in some]
                how = play(binaries[binary], [r["test"] for r in some], {"MUTANT": str(number)},
                           PATIENCE + 10 * max(r["seconds"] for r in some))
                if how != "passed":
                    verdict = "timeout" if how == "timeout" else "caught"
                    by = how if how not in ("timeout", "died") else f"{how}: {binary} {some[0]['test']}"
                    killers[how] += 1
        row = {"number": number, "name": mutant["name"], "verdict": verdict, "by": by,
               "seconds": round(time.monotonic() - start, 1)}
        with lock:
            with results.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(f"{verdict:9} {row['seconds']:6.1f} s  {mutant['name']}  [{by}]", flush=True)

    # Those that hang sleep most of the time.
    lock = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for done_one in [pool.submit(one, n, m) for n, m in of_files(names) if n not in done]:
            done_one.result()


def run_alone():
    rows = [json.loads(line) for line in (TARGET / "results.jsonl").read_text().splitlines()]
    everything = dict(enumerate(mutants(), 1))
    for row in rows:
        if row["verdict"] == "alone":
            row["verdict"], row["by"] = alone(row["number"], everything[row["number"]])
            print(f"{row['verdict']:9} {row['name']}  [{row['by']}]", flush=True)
            with (TARGET / "alone.jsonl").open("a") as out:
                out.write(json.dumps(row) + "\n")


def deep():
    """Large scenes under drawn schedules: what only shows when several are at it."""
    names = [w for t in sorted((ROOT / "tests").glob("shuttle_*.rs")) for w in ("--test", t.stem)]
    env = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "shuttle"), RUSTFLAGS="--cfg lease_shuttle -Awarnings")
    made = subprocess.run(["cargo", "test", "--release", "--locked", "--no-run", "--message-format=json", *names],
                          cwd=COPY, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    binaries = re.findall(r'"executable":"([^"]+)"', made)
    done = {row["number"] for row in rows_of(TARGET / "deep.jsonl")}

    def one(row):
        env = {"MUTANT": str(row["number"]), "LEASE_SCHEDULES": "2000", "LEASE_SEED": "1"}
        for binary in binaries:
            how = play(binary, [], env, 300)
            if how not in ("passed", "timeout"):
                row["verdict"], row["by"] = "caught", f"shuttle: {how}"
                break
        with lock:
            print(f"{row['verdict']:9} {row['name']}  [{row['by']}]", flush=True)
            with (TARGET / "deep.jsonl").open("a") as out:
                out.write(json.dumps(row) + "\n")

    lock = threading.Lock()
    rows = [row for row in verdicts_of("results", "slow") if row["verdict"] == "missed" and row["number"] not in done]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for done_one in [pool.submit(one, row) for row in rows]:
            done_one.result()


def report():
    rows = verdicts_of("results", "slow", "deep", "alone")
    explained = (ROOT / "docs/mutants.md").read_text() if (ROOT / "docs/mutants.md").exists() else ""
    verdicts = ["caught", "timeout", "missed", "unviable", "alone"]
    counts = collections.defaultdict(collections.Counter)
    total = collections.Counter(stem(m) for m in mutants())
    for row in rows:
        counts[Path(row["name"].split(":")[0]).stem][row["verdict"]] += 1
    print(f"| file | mutants | {' | '.join(verdicts)} | not run |")
    print(f"| --- |{' --: |' * (len(verdicts) + 2)}")
    for name in sorted(total, key=lambda n: ORDER.index(n) if n in ORDER else 99):
        row = counts[name]
        print(f"| {name} | {total[name]} | {' | '.join(str(row[v]) for v in verdicts)} | {total[name] - sum(row.values())} |")
    everything = sum(counts.values(), collections.Counter())
    print(f"| all | {sum(total.values())} | {' | '.join(str(everything[v]) for v in verdicts)} | {sum(total.values()) - sum(everything.values())} |")
    unexplained = 0
    for row in rows:
        text = re.sub(r":\d+:\d+: ", ": ", row["name"], count=1)
        if row["verdict"] == "missed" and text not in explained:
            print(f"not explained: {row['name']}  [{row['by']}]")
            unexplained += 1
    sys.exit(1 if unexplained else 0)


def main():
    command, names = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if not shutil.which(CARGO_MUTANTS):
        print("SKIPPED: no cargo-mutants here (cargo install cargo-mutants --locked)")
    elif command == "all":
        build()
        cover()
        for name in ("results", "slow", "deep", "alone"):
            (TARGET / f"{name}.jsonl").unlink(missing_ok=True)
        run(names)
        run(names, slow=True)
        deep()
        run_alone()
        report()
    elif command == "run":
        run(names)
    elif command == "slow":
        run(names, slow=True)
    elif command == "alone":
        run_alone()
    elif command in ("build", "cover", "deep", "report"):
        {"build": build, "cover": cover, "deep": deep, "report": report}[command]()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
