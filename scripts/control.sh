#!/usr/bin/env bash
# The broken control: with a gate that nobody respects, the hostile block map must find poison under a
# pin. If it does not, its clean runs prove nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/control
RUSTFLAGS='--cfg lease_mutant="gate_ignored"' \
    cargo test --release --locked --test hostile -- --nocapture
