# Every duty of this repository, by name. Each recipe is a script, so that none needs `just`.

# List the recipes.
default:
    @just --list

# Before a change lands: what CI runs.
preflight:
    scripts/preflight.sh

# The README's two commands.
test:
    cargo test
demo:
    cargo run --release --example pmem_kv

# Formatting, lints and docs, with warnings denied.
lint:
    scripts/lint.sh

# Spelling.
typos:
    scripts/typos.sh

# The picture of the flow, and the pictures as rustdoc wants them.
pictures:
    scripts/flow.py
    scripts/doc_images.py

# The loom models of the core, over the real crate.
models:
    scripts/models.sh

# Large scenes of the crate under drawn schedules, and their controls: `just shuttle long`, `just shuttle replay SCENE WHAT`.
shuttle *what:
    scripts/shuttle.sh {{ what }}

# The models of the handshake with store buffers and membarrier, by spin: `just spin long`, `just spin NAME`.
spin *names:
    scripts/spin.sh {{ names }}

# Break one ordering, fence or step at a time: a model must notice each.
mutants *names:
    scripts/mutants.sh {{ names }}

# cargo-mutants' mutants of the machine, all in one build: `just cargo-mutants gate turns` for these files.
cargo-mutants *files:
    scripts/cargo_mutants.py all {{ files }}

# Take one flush, one fence or one wait out of pmem_kv's store at a time: its crash test must notice each.
pmem-kv-mutants *names:
    scripts/pmem_kv_mutants.sh {{ names }}

# The hostile block map, and its control with a gate that nobody respects.
hostile seconds="20":
    HOSTILE_SECONDS={{ seconds }} cargo test --release --test hostile -- --nocapture
    scripts/control.sh

# Everything at once and the litmus of the handshakes, on this machine, and their controls.
torture seconds="10":
    scripts/torture.sh --seconds {{ trim_start_match(seconds, "seconds=") }}

# The examples on real files, on an overlay; `just examples all`: on three file systems.
examples *which:
    scripts/examples.sh {{ which }}

# Every bench, for 12 minutes on an idle machine: BENCHMARKS.md, docs/plots and docs/performance.md.
bench:
    scripts/bench.sh

# Every bench once: that it runs and no row is missing. Writes nothing into the repository.
bench-smoke:
    scripts/bench.sh --smoke

# Instructions of pin, unpin and idle break, and the path that they take, under bounds.
callgrind:
    scripts/callgrind.sh

# The library on the oldest compiler it promises.
msrv:
    scripts/msrv.sh

# The fuzz targets, each for so many seconds, with libFuzzer on the stable compiler. `cargo test` replays the corpus.
fuzz seconds="60" *targets:
    scripts/fuzz.sh {{ seconds }} {{ targets }}

# ThreadSanitizer: the edges and the tests with threads. `just tsan edges`: those alone; `just tsan controls`: broken edges.
tsan *what:
    scripts/tsan.sh {{ what }}

# AddressSanitizer: the tests, and the examples with `unsafe`.
asan *what:
    scripts/asan.sh {{ what }}

# The library with each set of its features.
features:
    scripts/features.sh

# What would be published: packed, and built from that.
package:
    scripts/package.sh

# Licences, sources and duplicates of the dependencies: `just licences advisories` for those as well.
licences *what:
    scripts/licences.sh {{ what }}

# What is too long for every change: all of it, or `just nightly fuzz twin`; `just nightly --doc` writes the results into SAFETY.md.
nightly *steps:
    scripts/nightly.sh {{ steps }}
