#!/usr/bin/env bash
# The broken control: with a gate that nobody respects, the hostile block map must find poison under a
# pin. If it does not, its clean runs prove nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
wrapper=$(scripts/mutant-rustc.sh "${CARGO_TARGET_DIR:-target}/mutants" gate_ignored)
RUSTC_WORKSPACE_WRAPPER=$wrapper cargo test --release --locked --test hostile -- --nocapture
