#!/usr/bin/env bash
# The loom models: the real crate, over a model checker's atomics, locks and thread locals. Arguments are
# cargo's.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
targets=()
for file in tests/loom_*.rs; do
    targets+=(--test "$(basename "$file" .rs)")
done
RUSTFLAGS="--cfg lease_loom" RUST_BACKTRACE=0 \
    timeout "${MODEL_SECONDS:-600}" cargo test --release --locked "${targets[@]}" "$@"
