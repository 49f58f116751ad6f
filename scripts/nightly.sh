#!/usr/bin/env bash
# What is too long for every change.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/preflight.sh
PROPTEST_CASES=200000 cargo test --release --locked --test twin -- --nocapture
HOSTILE_SECONDS=600 cargo test --release --locked --test hostile -- --nocapture
cargo run --release --locked --example pmem_kv -- demo --seconds 120
