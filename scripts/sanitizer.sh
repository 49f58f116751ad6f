#!/usr/bin/env bash
# What scripts/asan.sh and scripts/tsan.sh share: sourced, with SANITIZER=address or thread set.
#
# The stable tool chain ships the runtimes of both; RUSTC_BOOTSTRAP=1 lets it use them. The standard library
# is not instrumented: its generic code is, where it is compiled into ours, and so is every dependency.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}/$SANITIZER
mkdir -p "$target"
flags="-Zsanitizer=$SANITIZER -Cunsafe-allow-abi-mismatch=sanitizer"

# A probe: does this tool chain have the sanitizer, and does this machine run it?
echo 'fn main() {}' >"$target/probe.rs"
# shellcheck disable=SC2086
if ! RUSTC_BOOTSTRAP=1 rustc $flags --target "$host" -o "$target/probe" "$target/probe.rs" 2>"$target/probe.log" ||
    ! "$target/probe" 2>>"$target/probe.log"; then
    echo "SKIPPED: $SANITIZER sanitizer: $(grep -m 1 . "$target/probe.log")"
    exit 0
fi

# Cargo with the sanitizer, for the mutant $1 of the crate and its tests (`none`: as they are).
sanitized() { # mutant, cargo's arguments
    local mutant=$1
    shift
    # With --target, build scripts and macros are not instrumented.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_TARGET_DIR=$target \
        RUSTC_WORKSPACE_WRAPPER=$(scripts/mutant-rustc.sh "$target/mutants" "$mutant") \
        cargo "$1" --locked --target "$host" "${@:2}"
}

# A broken control: the sanitizer must report `report` when the test is run with the mutant. All are tried; the
# last line of the script asks whether all were reported.
unreported=0
control() { # mutant, report, test target, tests
    local log=$target/control.$1.log start=$SECONDS verdict
    if sanitized "$1" test --test "$3" -- --test-threads 1 "${@:4}" >"$log" 2>&1; then
        verdict='NOT REPORTED, so the clean runs prove nothing'
    elif ! grep -qE "$2" "$log"; then
        verdict="failed, but not by a report: see $log"
    else
        printf 'control %-24s reported in %s, %d s\n' "$1" "$4" $((SECONDS - start))
        return
    fi
    printf 'control %-24s %s\n' "$1" "$verdict"
    unreported=$((unreported + 1))
}
controls_done() {
    exit $((unreported > 0))
}
