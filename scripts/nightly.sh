#!/usr/bin/env bash
# What is too long for every change: some four hours.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/preflight.sh
LEASE_DEEP=1 scripts/mutants.sh | tee -a "${CARGO_TARGET_DIR:-target}/preflight.log"
scripts/safety.sh --all
scripts/features.sh
scripts/licences.sh advisories
scripts/shuttle.sh long
scripts/spin.sh long
PROPTEST_CASES=200000 cargo test --release --locked --test twin -- --nocapture
HOSTILE_SECONDS=600 cargo test --release --locked --test hostile -- --nocapture
scripts/torture.sh --seconds 3600
scripts/examples.sh all
cargo run --release --locked --example pmem_kv -- demo --seconds 120
scripts/tsan.sh
scripts/asan.sh
scripts/fuzz.sh 600
