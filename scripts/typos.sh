#!/usr/bin/env bash
# Spelling, with _typos.toml, by the program `typos`: the one that is installed, or else the package of pip's of that name,
# below the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/typos
typos=$(command -v typos || echo "$target/bin/typos")
if [ ! -x "$typos" ]; then
    timeout 60 python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$target" typos >"$target.log" 2>&1 || true
fi
if [ ! -x "$typos" ]; then
    echo "SKIPPED: no typos here (pip install typos)"
    exit 0
fi
"$typos" --config _typos.toml
