#!/usr/bin/env bash
# The models of the handshake with store buffers and membarrier (models/README.md), explored exhaustively by
# spin; and each seeded bug, which they must find.
#
#   scripts/spin.sh              all that fits into a few minutes
#   scripts/spin.sh long         larger settings
#   scripts/spin.sh NAME ...     these rows
#   scripts/spin.sh trail NAME   the shortest way to a row's failure, step by step
#
# Prints the table: variant, expected, verdict, states, depth, seconds. Fails if a verdict is not the expected
# one. `freed` is a block freed under a pin, `hang` a break that nobody wakes; a bug must be found as the one
# that it leads to.
set -uo pipefail
cd "$(dirname "$0")/.."
models=$PWD/models
out=${CARGO_TARGET_DIR:-$PWD/target}/spin
limit=${SPIN_SECONDS:-600} # for each row, on a loaded machine
memory=${SPIN_MEGABYTES:-2500}
at_once=${SPIN_JOBS:-2}

# name | expected | which check | definitions | model, if not handshake. The long ones come first, for the two
# that are explored at a time to end together.
rows=(
    # Two mappings that share barriers.
    "share             |passes|safety ||sharing"
    # The whole: any number of pins and breaks, both buffers two deep.
    "clean             |passes|safety |-DCHECK_I1"
    # The guard is closed for good, once or more than once.
    "close_2x1         |passes|safety |-DCHECK_I1 -DBREAKERS=1 -DCLOSE -DCANCEL -DMAY_FAIL"
    "close_1x2         |passes|safety |-DCHECK_I1 -DPINNERS=1 -DCLOSE -DCANCEL"
    # Breaks dropped and tried, and barriers that were not to be had.
    "cancel_2x1        |passes|safety |-DCHECK_I1 -DBREAKERS=1 -DCANCEL -DMAY_FAIL"
    "cancel_1x2        |passes|safety |-DCHECK_I1 -DPINNERS=1 -DCANCEL -DMAY_FAIL"
    # Slots of three words, deeper buffers, ranges of several pages.
    "words_2x1         |passes|safety |-DCHECK_I1 -DBREAKERS=1 -DWORDS -DDEPTH=3"
    "words_1x2         |passes|safety |-DCHECK_I1 -DPINNERS=1 -DWORDS -DDEPTH=4 -DBRIDGE -DGAP"
    "deep_2x1          |passes|safety |-DCHECK_I1 -DBREAKERS=1 -DDEPTH=4"
    "share_fail        |passes|safety |-DONE_PINNER -DMAY_FAIL|sharing"
    # Under weak fairness, with pinners that never stop, every break gets its proof.
    "fair_2x1          |passes|liveness|-DFAIR -DBREAKERS=1"
    "fair_1x2          |passes|liveness|-DFAIR -DPINNERS=1 -DBREAKS=1"
    "share_fair        |passes|liveness|-DFAIR -DONE_PINNER -DBREAKS=2|sharing"
    # Other ways to do it that are right: so that their broken twins below fail for the one reason.
    "TRUST_BEHIND      |passes|safety |-DPINNERS=1"
    "SECOND_BARRIER    |passes|safety |-DBREAKERS=1 -DWAITER_WORD"

    "NO_BARRIER        |freed |freed  |"
    "SWITCH_NO_BARRIER |freed |freed  |"
    "FENCED_AT_REOPEN  |freed |freed  |"
    "FENCED_TEST_OVERLAP_PIN  |freed |freed |"
    "FENCED_TEST_OVERLAP_UNPIN|hang  |hang  |"
    "TRUST_EARLY       |freed |freed  |-DPINNERS=1"
    "MODE_FIRST        |freed |freed  |"
    "MODE_UNLOCKED     |freed |freed  |"
    "LOOK_FIRST        |freed |freed  |"
    "FLAG_NOT_COUNT    |freed |freed  |"
    "NO_RESCAN         |freed |freed  |"
    "TRY_WITHOUT_BARRIER|freed|freed  |-DPINNERS=1 -DBREAKERS=1 -DCANCEL -DMAY_FAIL"
    "CLOSE_NO_BARRIER  |freed |freed  |-DPINNERS=1 -DBREAKERS=1 -DCLOSE"
    "LOOK_BEFORE_CLEAR |hang  |hang   |"
    "WAITER_LATE       |hang  |hang   |"
    "WAITER_WORD       |hang  |hang   |-DBREAKERS=1"
    "LISTEN_AFTER_LOOK |hang  |hang   |"
    "RETREAT_SILENT    |hang  |hang   |"
    "SNAPSHOT_ONCE     |hang  |hang   |-DPINNERS=1 -DBREAKERS=1 -DWORDS -DGAP -DDEPTH=4"
    # The fair check must be able to fail, too.
    "fair_bold         |hang  |liveness|-DFAIR -DBREAKERS=1 -DBOLD"
    "fair_listen       |hang  |liveness|-DFAIR -DBREAKERS=1 -DLISTEN_AFTER_LOOK"
    "SHARE_STARTED_BEFORE|freed|freed ||sharing"
    "SHARE_UNFENCED    |freed |freed  ||sharing"
    "SHARE_COUNTED_LATE|freed |freed  ||sharing"
    "SHARE_FAILED      |freed |freed  | -DMAY_FAIL|sharing"
)
# Only when asked for: up to a quarter of an hour and 8 GB each.
long_rows=(
    "cancel_2x2        |passes|safety |-DCHECK_I1 -DCANCEL -DMAY_FAIL"
    "close_2x2         |passes|safety |-DCHECK_I1 -DCLOSE"
    "bridge_2x2        |passes|safety |-DCHECK_I1 -DBRIDGE"
    "deep_2x2          |passes|safety |-DCHECK_I1 -DDEPTH=4"
    "words_2x2         |passes|safety |-DCHECK_I1 -DWORDS -DDEPTH=3 -DBREAKS=1"
    "share_fail_2x2    |passes|safety |-DMAY_FAIL|sharing"
)

if ! command -v spin >/dev/null; then
    { apt-get install -y -qq spin || { apt-get update -qq && apt-get install -y -qq spin; }; } >/dev/null 2>&1
fi
for tool in spin gcc; do
    if ! command -v $tool >/dev/null; then
        echo "SKIPPED: no $tool here, and apt-get cannot install it"
        exit 0
    fi
done

build() { # folder, model, pan's definitions, the model's definitions ...
    mkdir -p "$1" && (
        cd "$1" && rm -f ./*.trail pan &&
            spin -a "${@:4}" "$models/$2.pml" >log 2>&1 &&
            # shellcheck disable=SC2086 # several words
            gcc -w -DNOBOUNDCHECK -DMEMLIM="$memory" $3 -o pan pan.c >>log 2>&1
    )
}

explore() { # name, expected, check, definitions, model: one row of the table
    local folder=$out/$1 start=$SECONDS verdict states depth flags='-O0 -DSAFETY -DNOFAIR' run='-m4000000 -w22'
    local defines=()
    read -ra defines <<<"$4"
    [[ $1 =~ ^[A-Z] ]] && defines+=("-D$1")
    case $3 in
    # The states are stored as they are; where that would be too much, compressed, without loss.
    safety)
        flags='-O1 -DSAFETY -DNOFAIR'
        [ -n "$long" ] && flags+=' -DCOLLAPSE' run='-m30000000 -w26'
        ;;
    # Only this failure counts, so that a bug is not found by another one.
    freed) run+=' -E' ;;
    hang) run+=' -A' ;;
    liveness) flags='-O1 -DNFAIR=3 -DNOREDUCE' run='-m4000000 -w22 -a -f' ;;
    esac
    if ! build "$folder" "$5" "$flags" "${defines[@]}"; then
        verdict='NO BUILD'
    else
        # shellcheck disable=SC2086 # several words
        (cd "$folder" && timeout --foreground "$limit" ./pan $run >log 2>&1)
        states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' "$folder/log")
        depth=$(sed -nE 's/.*depth reached ([0-9]+).*/\1/p' "$folder/log")
        # Whatever was not explored to the end has not passed.
        if grep -q '^pan:.*assertion violated.*==[23])' "$folder/log"; then
            verdict=newcomer # I1
        elif grep -q '^pan:.*assertion violated' "$folder/log"; then
            verdict=freed
        elif grep -q '^pan:.*\(invalid end state\|acceptance cycle\)' "$folder/log"; then
            verdict=hang
        elif ! grep -q 'errors: 0' "$folder/log"; then
            verdict=UNFINISHED
        elif grep -q 'max search depth too small\|reached -DMEMLIM\|hash table is full\|Search not completed' "$folder/log"; then
            verdict=UNFINISHED
        else
            verdict=passes
        fi
    fi
    printf '%-26s %-9s %-11s %10s %8s %8s\n' "$1" "$2" "$verdict" "${states:--}" "${depth:--}" "$((SECONDS - start))"
    [ "$verdict" = "$2" ]
}

trail() { # name, check, definitions, model
    local folder=$out/$1.trail defines=() run='-w22'
    read -ra defines <<<"$3"
    [[ $1 =~ ^[A-Z] ]] && defines+=("-D$1")
    case $2 in
    freed) run+=' -E' ;;
    hang) run+=' -A' ;;
    esac
    # Breadth first: no failure is nearer.
    build "$folder" "$4" '-O0 -DSAFETY -DNOFAIR -DBFS' "${defines[@]}" || exit 1
    cd "$folder" || exit 1
    # shellcheck disable=SC2086 # several words
    ./pan $run >log 2>&1
    spin -t -p -g "${defines[@]}" -k "$4.pml.trail" "$models/$4.pml" | grep -v 'creates proc\|^[[:space:]]*$'
}

asked=("$@")
want_trail='' long=''
case ${1:-} in
long)
    asked=("${@:2}")
    memory=${SPIN_MEGABYTES:-10000} limit=${SPIN_SECONDS:-3600} long=1
    rows=("${long_rows[@]}")
    ;;
trail)
    want_trail=1
    asked=("${@:2}")
    ;;
esac

# Each row is a process group of its own, so that nothing of it is left behind.
set -m
trap 'for job in $(jobs -p); do kill -- "-$job" 2>/dev/null; done' EXIT
trap 'exit 130' INT TERM
mkdir -p "$out"
[ -n "$want_trail" ] || printf '%-26s %-9s %-11s %10s %8s %8s\n' variant expected verdict states depth seconds
names=() wrong=0
for row in "${rows[@]}"; do
    IFS='|' read -r name expected check defines model <<<"$row"
    name=${name// /} expected=${expected// /} check=${check// /} model=${model:-handshake}
    if [ ${#asked[@]} -gt 0 ] && [[ " ${asked[*]} " != *" $name "* ]]; then
        continue
    fi
    names+=("$name")
    if [ -n "$want_trail" ]; then
        trail "$name" "$check" "$defines" "$model"
        continue
    fi
    while [ "$(jobs -pr | wc -l)" -ge "$at_once" ]; do
        wait -n
    done
    rm -f "$out/$name.wrong"
    { explore "$name" "$expected" "$check" "$defines" "$model" || touch "$out/$name.wrong"; } &
done
wait
if [ ${#names[@]} -eq 0 ]; then
    echo "no row of the name: ${asked[*]}" >&2
    exit 2
fi
for name in "${names[@]}"; do
    [ -e "$out/$name.wrong" ] && wrong=$((wrong + 1))
done
[ "$wrong" -eq 0 ]
