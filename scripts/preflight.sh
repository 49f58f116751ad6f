#!/usr/bin/env bash
# Everything that must hold before a change lands; CI runs the same. From a fresh clone it takes
# twelve (Intel Xeon) to seventeen minutes (AMD EPYC) on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
step() {
    local start=$SECONDS
    {
        printf '\n== %s\n' "$*"
        "$@"
        printf '== %s: %d s\n' "$*" "$((SECONDS - start))"
    } 2>&1 | tee -a "$all"
}

# What ran, for scripts/safety.sh.
target=${CARGO_TARGET_DIR:-target}
all=$target/preflight.log
mkdir -p "$target"
: >"$all"
touch "$target/preflight.began"

log=$(mktemp)
trap 'rm -f "$log"; kill $(jobs -p) 2>/dev/null || true' EXIT
tests() { # the README's test command, and a minimum number of tests for each target
    cargo test --locked 2>&1 | tee "$log"
    scripts/counts.sh "$log"
}
long_tests() { # the twin's full number of cases, the hostile block map without the debug build's scans
    cargo test --release --locked --test twin --test hostile -- --nocapture
}
# What later steps need is built while the tests of the debug build run, which leave half of the processors idle: they
# wait for devices and for the clock. It fails in silence: those steps build the same again, and say what is wrong.
ahead() {
    renice -n 10 "$BASHPID" >/dev/null || true
    local benches=() bench
    for bench in pin peers break outstanding adaptive wait_latency instructions; do benches+=(--bench "$bench"); done
    cargo test --release --locked --no-run --test twin --test hostile
    cargo build --release --locked --examples
    scripts/models.sh --no-run
    scripts/shuttle.sh build
    cargo bench --locked --no-run "${benches[@]}"
}
example() { # name, arguments
    cargo run --release --locked --example "$1" -- "${@:2}"
}

step scripts/lint.sh
step cargo test --locked --no-run
ahead >"$target/ahead.log" 2>&1 &
step tests
step cargo test --locked --features tracing,metrics --test observed
step scripts/refused.sh # the promises without membarrier
wait
step long_tests
step scripts/control.sh
step scripts/torture.sh    # the litmus on this machine, everything at once, and both without their barriers
step scripts/mutants.sh # loom: all models pass, and each bites
step scripts/shuttle.sh  # large scenes: 100,000 schedules, and two controls
step scripts/spin.sh     # the handshake under TSO, with membarrier
step scripts/callgrind.sh
step scripts/bench.sh --smoke
step example pmem_kv demo --seconds 3
step scripts/examples.sh
step scripts/msrv.sh
step scripts/package.sh # what users would get
step scripts/safety.sh # whatever SAFETY.md names has run
printf '\npreflight: %d s\n' "$((SECONDS - began))"
