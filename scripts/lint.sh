#!/usr/bin/env bash
# Formatting, lints and docs, with warnings denied, with and without features.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --all-targets --all-features --locked -- -D warnings
cargo clippy --lib --no-default-features --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features --document-private-items --locked
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --no-default-features --locked
if command -v python3 >/dev/null; then
    scripts/flow.py --check
    scripts/doc_images.py --check
    scripts/doc_links.py # of the docs just built
fi
scripts/typos.sh
