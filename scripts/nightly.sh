#!/usr/bin/env bash
# What is too long for every change: about five hours on two quiet cores.
#
#   scripts/nightly.sh              every step, one after another, and the table
#   scripts/nightly.sh STEP ...     these steps
#   scripts/nightly.sh --table      the last result of each step, whenever and of whatever commit that is
#   scripts/nightly.sh --doc        the same, into SAFETY.md
#
# A step that fails does not stop those behind it, but the whole has failed then. The output of each is kept in
# target/nightly, and its result beside it. A step is shortened by the variables in its command, for which the
# table then says what it was given: `FUZZ_SECONDS=120 scripts/nightly.sh fuzz`.
set -uo pipefail
cd "$(dirname "$0")/.."
export target=${CARGO_TARGET_DIR:-target}
kept=$target/nightly
mkdir -p "$kept"

# name | command | what of its output are the figures: `last LINES` of those that match, or `count` them
steps=(
    "preflight        | scripts/preflight.sh                                                  | last 1: ^preflight: [0-9]+ s"
    "mutants          | LEASE_DEEP=1 scripts/mutants.sh | tee -a \$target/preflight.log                     | count: killed  "
    "safety           | scripts/safety.sh                                                     | last 6: ^[a-z]+ +[0-9]+\$"
    "features         | scripts/features.sh                                                   | last 1: ^features: [0-9]+ sets"
    "licences         | scripts/licences.sh advisories                                        | last 2: ok|SKIPPED"
    "shuttle          | scripts/shuttle.sh long                                               | last 9: ^shuttle: [0-9]+ schedules| found  "
    "spin             | scripts/spin.sh long                                                  | count: ^[A-Za-z_0-9]+ +(passes|freed|hang|newcomer) "
    "twin             | PROPTEST_CASES=\${TWIN_CASES:=200000} cargo test --release --locked --test twin -- --nocapture | last 1: ^test result"
    "hostile          | HOSTILE_SECONDS=\${HOSTILE_SECONDS:=600} cargo test --release --locked --test hostile -- --nocapture | last 1: ^test result"
    "torture          | scripts/torture.sh --seconds \${TORTURE_SECONDS:=3600}                  | last 2: ^control"
    "examples         | scripts/examples.sh all                                               | count: ^== "
    "pmem_kv          | cargo run --release --locked --example pmem_kv -- demo --seconds 120   | last 1: ^every byte"
    "pmem_kv_mutants  | scripts/pmem_kv_mutants.sh                                            | count: killed  "
    "tsan             | scripts/tsan.sh                                                       | last 4: reports,"
    "tsan_controls    | scripts/tsan.sh controls                                              | count: ^control .* reported in "
    "asan             | scripts/asan.sh                                                       | count: ^test .* ok\$"
    "asan_controls    | scripts/asan.sh controls                                              | count: ^control .* reported in "
    "fuzz             | scripts/fuzz.sh \${FUZZ_SECONDS:=600}                                   | last 4: executions"
    "cargo_mutants    | scripts/cargo_mutants.py all                                          | last 1: ^\| all "
)

trim() {
    sed -E 's/^[[:space:]]+//; s/[[:space:]]+$//' <<<"$1"
}

part() { # row, which part: a bar within a command has a space on both sides and no step's name before it
    case $2 in
    name) trim "${1%%|*}" ;;
    figures) trim "${1##* | }" ;;
    command)
        local rest=${1#*|}
        trim "${rest% | *}"
        ;;
    esac
}

figures() { # what, log
    local how=${1%%: *} pattern=${1#*: }
    case $how in
    count) printf '%d x "%s"' "$(grep -cE -- "$pattern" "$2")" "$pattern" ;;
    *) grep -E -- "$pattern" "$2" | tail -n "${how#last }" | sed -E 's/^[ =|]+//; s/ +/ /g; s/ *\|/,/g' | paste -sd ';' | sed 's/;/; /g' ;;
    esac
}

machine() { # its processor, in short
    sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | sed -E 's/\([RTM]+\)//g' | cut -d' ' -f1,2
}

step() { # row
    local name command log start=$SECONDS status verdict said
    name=$(part "$1" name)
    log=$kept/$name.log
    # With what the variables in it are, for the table.
    command=$(part "$1" command)
    said=$(sed -E 's/:=/:-/g' <<<"$command")
    said=$(eval "printf '%s' \"${said//\"/\\\"}\"")
    printf '\n== %s: %s\n' "$name" "$said"
    bash -o pipefail -c "$command" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    verdict=passed
    if [ "$status" -ne 0 ]; then
        verdict=FAILED
    elif [ -z "$(figures "$(part "$1" figures)" "$log")" ] || grep -qE '^SKIPPED' <(tail -n 1 "$log"); then
        # Nothing was said that it should have said: then it has shown nothing.
        verdict=$(grep -m 1 -oE '^SKIPPED.*' "$log" || echo 'FAILED: says nothing')
    fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$verdict" "$((SECONDS - start))" "$(date -u +%Y-%m-%d)" \
        "$(git describe --always --dirty=+ 2>/dev/null || echo -)" "$(machine)" "$said" \
        "$(figures "$(part "$1" figures)" "$log")" >"$kept/$name.result"
    printf '== %s: %s, %d s\n' "$name" "$verdict" "$((SECONDS - start))"
    [ "$verdict" = passed ] || [[ $verdict == SKIPPED* ]]
}

table() {
    local row name verdict seconds date commit machine command figures
    printf '%-15s %-8s %7s  %-10s  %-9s %-10s %s\n' \
        step verdict seconds date commit machine 'what it ran, and what that said'
    for row in "${steps[@]}"; do
        name=$(part "$row" name)
        if [ -e "$kept/$name.result" ]; then
            IFS=$'\t' read -r name verdict seconds date commit machine command figures <"$kept/$name.result"
        else
            verdict='not run' seconds=- date=- commit=- machine=- figures=- command=$(part "$row" command)
        fi
        printf '%-15s %-8s %7s  %-10s  %-9s %-10s %s\n' \
            "$name" "${verdict%%:*}" "$seconds" "$date" "$commit" "$machine" "$command"
        [[ $verdict != *:* ]] || printf '%66s%s\n' '' "${verdict#*: }"
        [ "$figures" = - ] || printf '%66s%s\n' '' "$figures"
    done
}

case ${1:-} in
--table) table && exit 0 ;;
--doc)
    {
        echo "On VMs of $(nproc) cores, $(uname -s) $(uname -r | cut -d. -f1,2):"
        echo
        table
    } | python3 scripts/bench_doc.py SAFETY.md nightly
    exit
    ;;
-*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 2 ;;
esac

failed=0
for name in "$@"; do
    printf '%s\n' "${steps[@]}" | grep -qE "^$name " || { echo "no such step: $name" >&2 && exit 2; }
done
for row in "${steps[@]}"; do
    name=$(part "$row" name)
    if [ $# -eq 0 ] || [[ " $* " == *" $name "* ]]; then
        step "$row" || failed=$((failed + 1))
    fi
done
printf '\n'
table
printf '\nnightly: %d failed\n' "$failed"
[ "$failed" -eq 0 ]
