#!/usr/bin/env bash
# The loom models: the real crate, over a model checker's atomics, locks and thread locals.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/loom
RUSTFLAGS="--cfg lease_loom" RUST_BACKTRACE=0 \
    timeout "${MODEL_SECONDS:-600}" cargo test --release --locked --test loom_core --test loom_leases
