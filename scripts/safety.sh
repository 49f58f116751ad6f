#!/usr/bin/env bash
# Fails unless everything that SAFETY.md's table names has run, and said what it should: tests and models passed,
# seeded bugs of the spin models were found, scripts came to their end.
#
# Run it after scripts/preflight.sh, which leaves its output in target/preflight.log.
# That what is named exists at all is tests/house.rs's affair.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
log=$target/preflight.log
began=$target/preflight.began
[ -e "$log" ] && [ -e "$began" ] || { echo "no $log: run scripts/preflight.sh" && exit 1; }

ran() { # name: how it ran, or nothing
    local model=$target/loom/mutants/none.$1.log
    if grep -qE "^test (.*::)?$1 \.\.\. ok" "$log"; then
        echo test
    elif [ "$model" -nt "$began" ] && grep -q '^test result: ok. 1 passed' "$model"; then
        echo model
    elif grep -qE "^$1 +(freed|hang|newcomer) +(freed|hang|newcomer) " "$log"; then
        echo seeded
    elif grep -qE "^$1 +killed " "$log"; then
        echo mutant
    elif [[ $1 == scripts/* ]] && grep -qE "^== $1( .*)?: [0-9]+ s$" "$log"; then
        echo script
    fi
}

skipped() { # name: why it need not have run
    if [[ $1 == models/* ]] && grep -qE '^== scripts/spin.sh: [0-9]+ s$' "$log"; then
        echo "its rows are scripts/spin.sh's"
    elif [[ $1 =~ ^[A-Z0-9_]+$ ]] && ! grep -q '^variant  *expected' "$log"; then
        grep -m 1 '^SKIPPED.*spin' "$log" || true
    fi
}

declare -A count=()
missing=0
for name in $(grep '^|' SAFETY.md | grep -oE '`[^`]+`' | tr -d '`' | sort -u); do
    how=$(ran "$name")
    if [ -z "$how" ]; then
        why=$(skipped "$name")
        if [ -n "$why" ]; then
            how=elsewhere
        else
            echo "SAFETY.md names $name, which did not run"
            missing=$((missing + 1))
            continue
        fi
    fi
    count[$how]=$((${count[$how]:-0} + 1))
done
for how in "${!count[@]}"; do printf '%-10s %4d\n' "$how" "${count[$how]}"; done | sort
[ "$missing" -eq 0 ]
