#!/usr/bin/env bash
# Large scenes of the real crate under drawn schedules (shuttle), half of them random, half PCT.
#
#   scripts/shuttle.sh                    100,000 schedules, and two of the controls
#   scripts/shuttle.sh long               10,000,000, and all controls
#   scripts/shuttle.sh controls [NAME...] the controls alone: all, or these
#   scripts/shuttle.sh build              nothing is played
#   scripts/shuttle.sh replay SCENE WHAT  one schedule, as a failure has printed it, or the seed of a random one
#
# A control is the crate with one line broken (`lease_mutant`), and a scene that must notice: by a page that is
# pulled from under its holder, by something left over, or by a deadlock. scripts/shuttle-controls names them.
# Schedules that have found something, there or in the crate itself, are in tests/shuttle_support/kept, and every
# scene begins with them. One goes stale when the crate's steps change; then the scene is searched anew, and
# says what it has found.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/shuttle
logs=$target/scenes
mkdir -p "$logs"
export RUST_BACKTRACE=0
found='violation|deadlock!' # what a scene says of the crate
scenes_at_least=10

build() { # mutant, or `none`
    RUSTFLAGS="--cfg lease_shuttle" CARGO_TARGET_DIR=$target \
        RUSTC_WORKSPACE_WRAPPER=$(scripts/mutant-rustc.sh "$logs" "$1") \
        cargo test --release --locked --test shuttle_breaks --test shuttle_leases --no-run --message-format=json \
        2>"$logs/$1.build" | grep -oE '"executable":"[^"]+"' | cut -d'"' -f4
}

scenes_of() { # binary
    "$1" --list --format terse | sed -n 's/: test$//p'
}

play() { # scene, binaries
    local binary
    for binary in "${@:2}"; do
        if scenes_of "$binary" | grep -qx "$1"; then
            timeout "${SCENE_SECONDS:-36000}" "$binary" --exact "$1" --nocapture
            return
        fi
    done
    echo "no such scene: $1"
    return 1
}

whole() { # schedules in all
    local binaries n=0 failed=0 start=$SECONDS binary
    binaries=$(build none)
    if [ "$(wc -w <<<"$binaries")" -ne 2 ]; then
        cat "$logs/none.build"
        return 1
    fi
    for binary in $binaries; do
        n=$((n + $(scenes_of "$binary" | wc -l)))
    done
    # So that none can silently vanish.
    if [ "$n" -lt "$scenes_at_least" ]; then
        echo "shuttle: $n scenes of at least $scenes_at_least"
        return 1
    fi
    local each=$((($1 + n - 1) / n)) began=$SECONDS
    # Each binary plays its scenes on as many processors as there are.
    for binary in $binaries; do
        LEASE_SCHEDULES=$each "$binary" --show-output 2>&1 | tee "$logs/$(basename "$binary").log" || failed=1
    done
    local result=passed
    [ "$failed" -eq 0 ] || result=FAILED
    printf 'shuttle: %d schedules in %d scenes, %d s (and %d s to build), %s\n' \
        $((each * n)) "$n" $((SECONDS - began)) $((began - start)) "$result"
    return "$failed"
}

control() { # mutant
    local start=$SECONDS binaries scene log=$logs/$1.log verdict=MISSED how=-
    scene=$(awk -v m="$1" '$1 == m {print $2}' scripts/shuttle-controls)
    binaries=$(build "$1")
    if [ "$(wc -w <<<"$binaries")" -ne 2 ]; then
        verdict='NO BUILD'
    elif ! LEASE_SCHEDULES=${CONTROL_SCHEDULES:-200000} play "$scene" $binaries >"$log" 2>&1 &&
        grep -qE "$found" "$log"; then
        verdict=found
        how=$(sed -n 's/.* failed under a \([a-zA-Z]*\) schedule.*/\1/p' "$log" | head -1)
        # Worth keeping, if none of those that are kept has found it.
        [ "$how" = kept ] || how="$how, seed $(grep -A2 'failing seed' "$log" | sed -n 3p)"
    fi
    printf '%-20s %-9s %-24s %s, %d s\n' "$1" "$verdict" "$scene" "$how schedule" $((SECONDS - start))
    [ "$verdict" = found ]
}

controls() { # mutants
    local missed=0 name
    for name in "$@"; do
        control "$name" || missed=1
    done
    return "$missed"
}

every_control() {
    sed -n 's/^\([a-z_]\{1,\}\) .*/\1/p' scripts/shuttle-controls
}

case ${1:-} in
'') whole 100000 && controls listen_after_look not_rescanned ;;
long)
    mapfile -t names < <(every_control)
    whole 10000000 && controls "${names[@]}"
    ;;
controls)
    shift
    names=("$@")
    [ ${#names[@]} -gt 0 ] || mapfile -t names < <(every_control)
    controls "${names[@]}"
    ;;
build) build none ;;
replay)
    # shellcheck disable=SC2046 # they are words
    LEASE_REPLAY=$3 play "$2" $(build none)
    ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
