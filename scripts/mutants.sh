#!/usr/bin/env bash
# Breaks one ordering, fence or step at a time and expects a named loom model to notice.
#
#   scripts/mutants.sh            all mutants
#   scripts/mutants.sh NAME ...   these
#
# The models' build has every mutant in it (`mutant!` and `order!` in src/sync/model.rs); which one a process
# is, LEASE_MUTANT says. First all models must pass on the crate as it is. Then each mutant counts as killed
# only if the model that scripts/mutant-models names for it fails: not if it does not end in time, and not if
# there is no such model. Of those that no model kills, the list says why that is no failure: `equivalent`, they break
# nothing, and docs/orderings.md has the argument; `open`, no model has been found yet. Prints the table: mutant,
# verdict, model, seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
export RUST_BACKTRACE=0
target=${CARGO_TARGET_DIR:-target}/loom
logs=$target/mutants
at_once=${MUTANT_JOBS:-2}
mkdir -p "$logs"
rm -f "$logs"/*.{log,bad}

mutants=("$@")
if [ ${#mutants[@]} -eq 0 ]; then
    mapfile -t mutants < <(grep -v '^#' scripts/mutant-models | awk '{print $1}')
fi

start=$SECONDS
executables=$(scripts/models.sh --no-run --message-format=json 2>"$logs/build.log" |
    grep -oE '"executable":"[^"]+"' | cut -d'"' -f4)
declare -A binary_of
for binary in $executables; do
    while read -r model; do
        binary_of[$model]=$binary
    done < <("$binary" --list --format terse | sed -n 's/: test$//p')
done
if [ ${#binary_of[@]} -eq 0 ]; then
    cat "$logs/build.log"
    echo 'NO BUILD'
    exit 1
fi
printf 'built in %d s\n\n' $((SECONDS - start))

row() { # mutant, verdict, model, seconds
    printf '%-26s %-10s %-52s %s\n' "$@"
}

as_it_is() { # model
    local start=$SECONDS verdict=passes log=$logs/none.$1.log
    timeout "${MODEL_SECONDS:-600}" "${binary_of[$1]}" --exact "$1" --nocapture >"$log" 2>&1 || verdict=BROKEN
    row none $verdict "$1 ($(sed -nE 's/.*: ([0-9]+) schedules/\1/p' "$log" | paste -sd+))" $((SECONDS - start))
    [ $verdict = passes ] || touch "$logs/none.$1.bad"
}

mutated() { # mutant
    local start=$SECONDS verdict=SURVIVES model log=$logs/$1.log status=0
    model=$(awk -v m="$1" '$1 == m {print $2}' scripts/mutant-models)
    if [ -z "$model" ] || [ -z "${binary_of[$model]:-}" ]; then
        verdict='NO MODEL'
    else
        {
            LEASE_MUTANT=$1 timeout "${MODEL_SECONDS:-600}" "${binary_of[$model]}" --exact "$model" >"$log" 2>&1 || status=$?
        } 2>/dev/null # bash says of each that it aborted
        # A test that failed, or that aborted because it panicked while unwinding. Anything else tells nothing.
        case $status in
        101 | 134) ! grep -q 'panicked at' "$log" || verdict=killed ;;
        124) verdict=TIMEOUT ;;
        esac
    fi
    # What scripts/mutant-models says of one that no model kills.
    [ "$verdict" != SURVIVES ] || verdict=$(awk -v m="$1" '$1 == m {print $3 ? $3 : "SURVIVES"}' scripts/mutant-models)
    row "$1" "$verdict" "${model:-none is named}" $((SECONDS - start))
    case $verdict in killed | open | equivalent) ;; *) touch "$logs/$1.bad" ;; esac
}

side_by_side() { # function, arguments: each in a process of its own
    local one
    for one in "${@:2}"; do
        while [ "$(jobs -pr | wc -l)" -ge "$at_once" ]; do
            wait -n
        done
        "$1" "$one" &
    done
    wait
}

row mutant verdict 'model (schedules)' seconds
mapfile -t models < <(printf '%s\n' "${!binary_of[@]}" | sort)
side_by_side as_it_is "${models[@]}"
side_by_side mutated "${mutants[@]}"
bad=$(find "$logs" -name '*.bad' | wc -l)
printf '\n%d models, %d mutants, %d bad, %d s\n' "${#models[@]}" "${#mutants[@]}" "$bad" $((SECONDS - start))
[ "$bad" -eq 0 ]
