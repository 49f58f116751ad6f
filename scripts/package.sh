#!/usr/bin/env bash
# What users would get: packs the crate, builds it from what was packed, with its documentation, its README's
# examples and its programs, and holds the list of what is packed to what users need.
#
# Asks no registry for anything but what Cargo.lock has.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
list=$(cargo package --list --locked --allow-dirty 2>/dev/null)

# Of this repository, and not for users.
if grep -E '^(tests|benches|fuzz|models|scripts|\.|examples/torture)|\.(svg|png|sh|py|pml)$' <<<"$list" |
    grep -vFx .cargo_vcs_info.json; then
    echo "package: the above is packed, and no user needs it"
    exit 1
fi
# Every picture and page that the documentation takes in, and the licences.
for needed in LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md docs/promises.md docs/images.md; do
    grep -qFx "$needed" <<<"$list" || { echo "package: $needed is not packed"; exit 1; }
done

cargo package --locked --allow-dirty --no-verify
packed=$(cd "${CARGO_TARGET_DIR:-target}/package" && pwd)
unpacked=$packed/unpacked
rm -rf "$unpacked"
mkdir -p "$unpacked"
tar -xzf "$packed/layout-lease-$version.crate" -C "$unpacked" --strip-components 1
# Shares what the checkout has compiled.
CARGO_TARGET_DIR=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
export CARGO_TARGET_DIR
cd "$unpacked"
for features in --no-default-features --all-features; do
    cargo check --locked --lib "$features"
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked "$features"
done
cargo check --locked --examples --all-features
echo "package: $(wc -l <<<"$list") files, $(stat -c %s "$packed/layout-lease-$version.crate") bytes"
