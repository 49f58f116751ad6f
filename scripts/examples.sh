#!/usr/bin/env bash
# The examples on real files, in their short form, on an overlay: their tests use the folder for temporary
# files and /dev/shm.
#
#   scripts/examples.sh        on an overlay
#   scripts/examples.sh all    and on a tmpfs, and where temporary files go
#
# The overlay is mounted in a namespace of its own, which goes with this script. Where that is not allowed, it
# says SKIPPED, and they run in the folder for temporary files.
set -euo pipefail
cd "$(dirname "$0")/.."
export binaries=${CARGO_TARGET_DIR:-target}/release/examples
cargo build --release --locked --example mmap_truncate --example collision --example segment_store --example uring_pool \
    --example async_engine

run() { # folder
    printf '\n== %s: %s\n' "$1" "$(stat -f -c %T "$1")"
    "$binaries/mmap_truncate" --seconds 2 --dir "$1"
    "$binaries/collision" --seconds 1 --dir "$1"
    "$binaries/segment_store" --seconds 1 --dir "$1"
    "$binaries/uring_pool" --seconds 2 --dir "$1"
    "$binaries/async_engine" --seconds 2 --dir "$1"
}

overlay() {
    mount -t overlay overlay -o "lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work" "$folder/merged"
}
export -f run overlay

folder=$(mktemp -d)
export folder
trap 'rm -rf "$folder"' EXIT
mkdir "$folder"/{lower,upper,work,merged}
namespace=(unshare --mount)
[ "$(id -u)" = 0 ] || namespace+=(--map-root-user)
if why=$("${namespace[@]}" bash -c overlay 2>&1); then
    "${namespace[@]}" bash -ec 'overlay; run "$folder/merged"'
else
    echo "SKIPPED: no overlay: $why"
    run "$folder"
fi
if [ "${1-}" = all ]; then
    run "$folder"
    run /dev/shm
fi
