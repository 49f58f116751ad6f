#!/usr/bin/env bash
# Spelling, with _typos.toml, by the program `typos` (`pip install typos`, or `cargo install typos-cli`).
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v typos >/dev/null; then
    echo "SKIPPED: no typos here (pip install typos)"
    exit 0
fi
typos --config _typos.toml
