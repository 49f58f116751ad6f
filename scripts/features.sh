#!/usr/bin/env bash
# The library with each set of its features, warnings denied: one that is only right beside another is found here,
# and so is a dependency that a set brings along and does not use.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t features < <(awk '/^\[features\]/ {on = 1; next} /^\[/ {on = 0} on && /^[a-z]/ {print $1}' Cargo.toml)
[ "${#features[@]}" -ge 4 ] || { echo "features: found only ${features[*]}"; exit 1; }
for ((set = 0; set < 1 << ${#features[@]}; set++)); do
    chosen=()
    for ((i = 0; i < ${#features[@]}; i++)); do
        if ((set >> i & 1)); then chosen+=("${features[i]}"); fi
    done
    chosen=$(IFS=,; echo "${chosen[*]}")
    echo "== features: ${chosen:-none}"
    # As a flag of clippy's own, warnings do not build the dependencies anew.
    cargo clippy --quiet --lib --locked --no-default-features --features "$chosen" -- -D warnings -D unused-crate-dependencies
done
echo "features: $set sets"
