#!/usr/bin/env bash
# Everything that must hold before a change lands; CI runs the same. From a fresh clone it takes some ten
# minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
step() {
    local start=$SECONDS
    printf '\n== %s\n' "$*"
    "$@"
    printf '== %s: %d s\n' "$1" "$((SECONDS - start))"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
tests() { # the README's test command, and a minimum number of tests for each target
    cargo test --locked 2>&1 | tee "$log"
    scripts/counts.sh "$log"
}
long_tests() { # the twin's full number of cases, the hostile block map without the debug build's scans
    cargo test --release --locked --test twin --test hostile -- --nocapture
}
examples() {
    cargo run --release --locked --example pmem_kv -- demo --seconds 3
}

step scripts/lint.sh
step tests
step long_tests
step scripts/control.sh
step scripts/mutants.sh # the models on the crate as it is, and on each mutant
step examples
step scripts/msrv.sh
printf '\npreflight: %d s\n' "$((SECONDS - began))"
