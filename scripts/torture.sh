#!/usr/bin/env bash
# Torture and litmus on this machine, and their controls: without the breaker's barrier, and without the
# fences, the litmus must find what it forbids.
#
#   scripts/torture.sh                  ten seconds, for every change
#   scripts/torture.sh --seconds 3600   an hour; more arguments are the program's
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=10
if [ "${1:-}" = --seconds ]; then
    seconds=$2
    shift 2
fi
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/torture"

build() { # the name of a mutant, or `none`: prints the program's path
    local wrapper= program
    [ "$1" = none ] || wrapper=$(scripts/mutant-rustc.sh "$target/mutants" "$1")
    program=$(RUSTC_WORKSPACE_WRAPPER=$wrapper cargo build --release --locked --example torture \
        --message-format=json | grep -oE '"executable":"[^"]+"' | tail -n 1 | cut -d'"' -f4)
    cp "$program" "$target/torture/$1"
    echo "$target/torture/$1"
}

# One build has both: where the mode is asymmetric nobody asks for fences, and where it is fenced there is no
# other barrier.
control() { # what is missing, the mode in which it shows: over when both handshakes have failed
    local log=$target/torture/$1.log status=0
    "$broken" --seconds 60 --scenes litmus --mode "$2" | tee "$log" || status=$?
    # Of both handshakes. The last column but one counts what is forbidden.
    local found
    found=$(awk '$1 ~ /^(un)?pin$/ && $(NF - 2) > 0' "$log" | wc -l)
    if [ "$status" -ne 1 ] || [ "$found" -ne 2 ]; then
        echo "control $1: exit status $status, found in $found of 2 handshakes: the litmus shows nothing"
        exit 1
    fi
    echo "control $1: found, as it must be"
}

program=$(build none)
"$program" --seconds "$seconds" "$@"
broken=$(build heavy_missing+full_missing)
control heavy_missing asymmetric
control full_missing fenced
