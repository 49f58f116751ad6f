#!/usr/bin/env bash
# Fuzzing with libFuzzer and AddressSanitizer, on the stable tool chain.
#
#   scripts/fuzz.sh [SECONDS]              every target for so long (60)
#   scripts/fuzz.sh SECONDS TARGET ...     these targets
#   scripts/fuzz.sh minimise               what was found goes into the committed corpus, cut down
#
# What is found new stays in target/fuzz/corpus, what fails in target/fuzz/failed. tests/fuzz_replay.rs replays
# the committed corpus in every `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(lives tokens ranges pools)
target=${CARGO_TARGET_DIR:-target}/fuzz
corpus=tests/fuzz_replay/corpus
host=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$target/failed"

flags="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# With --target, build scripts and macros are not instrumented.
build() {
    # The versions that everything else here is built with, and the fuzzer's own.
    cp Cargo.lock fuzz/Cargo.lock
    RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_TARGET_DIR=$target \
        cargo build --manifest-path fuzz/Cargo.toml --release --target "$host"
}
if ! command -v c++ >/dev/null; then
    echo "SKIPPED: libFuzzer is C++, and there is no compiler for it"
    exit 0
fi
build
binary=$target/$host/release/fuzz
# Pools are files: where there is memory for them, no disk is needed.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
# What lives for ever lives for ever: slots and records are recycled, never freed.
export ASAN_OPTIONS=detect_leaks=0

if [ "$seconds" = minimise ]; then
    for name in "${targets[@]}"; do
        rm -rf "$target/least"
        mkdir -p "$target/least" "$target/corpus/$name"
        # One input for each edge of the code and each comparison: how often it is taken does not count.
        LEASE_FUZZ_TARGET=$name "$binary" -set_cover_merge=1 -use_counters=0 \
            "$target/least" "$corpus/$name" "$target/corpus/$name" >"$target/merge.$name.log" 2>&1
        # Inputs with a name of their own failed once, or make happen what has no code of its own: they stay.
        find "$corpus/$name" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
        cp "$target/least/"* "$corpus/$name/"
        echo "$name: $(find "$corpus/$name" -type f | wc -l) inputs, $(du -bs "$corpus/$name" | cut -f1) bytes"
    done
    exit 0
fi

failed=0
for name in "${targets[@]}"; do
    log=$target/$name.log
    mkdir -p "$target/corpus/$name" "$corpus/$name"
    if ! LEASE_FUZZ_TARGET=$name "$binary" "$target/corpus/$name" "$corpus/$name" \
        -max_total_time="$seconds" -max_len=512 -timeout=300 -rss_limit_mb=4096 \
        -artifact_prefix="$target/failed/$name-" -print_final_stats=1 >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "$name: FAILED; $(grep -m 1 -o 'Test unit written to .*' "$log")"
        failed=1
        continue
    fi
    awk -v name="$name" '
        / cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "ft:") ft = $(i + 1); if ($i == "corp:") corp = $(i + 1) } }
        /number_of_executed_units/ { n = $2 }
        END { printf "%s: %d executions, %d edges, %d features, corpus %s, nothing found\n", name, n, cov, ft, corp
              if (n == 0) exit 1 }' "$log"
done
exit "$failed"
