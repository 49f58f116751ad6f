#!/usr/bin/env bash
# Guards the fast paths without trusting a clock:
#
# - instructions, locked instructions and system calls of one pin, one unpin and one idle break, counted by
#   callgrind over benches/instructions.rs, each with a bound (what was measured and about 10 %);
# - the disassembly of a pin and its drop: the path that is taken has no `lock`, no `mfence` and no `call`.
#
# Exits non-zero above a bound. Installs nothing: SKIPPED without valgrind or objdump.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in valgrind objdump python3 cargo; do
    if ! command -v "$tool" >/dev/null; then
        echo "SKIPPED: no $tool here"
        exit 0
    fi
done
if [ "$(uname -m)" != x86_64 ]; then
    echo "SKIPPED: the bounds are for x86_64"
    exit 0
fi

binary=$(cargo bench --locked --no-run --bench instructions --message-format=json |
    python3 -c '
import json, sys
for line in sys.stdin:
    entry = json.loads(line)
    if entry.get("executable") and entry["target"]["name"] == "instructions":
        print(entry["executable"])')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What instructions.rs does N times, in which function: "instructions, locked instructions, system calls". What the
# first run costs (threads, tables) is the same for any N: so the difference of two runs, divided by the difference
# of their N.
count() { # WHAT FUNCTION
    local n
    for n in 1000 3000; do
        valgrind --tool=callgrind --collect-bus=yes --collect-systime=yes --collect-atstart=no \
            --toggle-collect="instructions::$2" --callgrind-out-file="$work/out" "$binary" "$1" "$n" 2>&1 |
            awk '/Collected/ {print $4, $5, $6}'
    done | awk '
        NR == 1 { for (i = 1; i <= 3; i++) first[i] = $i }
        NR == 2 { for (i = 1; i <= 3; i++) printf "%.1f ", ($i - first[i]) / 2000 }'
}

bad=0
printf '%-24s %-20s %14s %14s %14s\n' what function instructions locked 'system calls'
check() { # WHAT FUNCTION, and a bound for each of the three
    local counted verdict=ok
    counted=$(count "$1" "$2")
    set -- "$1" "$2" "$3" "$4" "$5" $counted
    if ! awk -v a="${6:-x}" -v b="${7:-x}" -v c="${8:-x}" -v x="$3" -v y="$4" -v z="$5" \
        'BEGIN { exit !(a ~ /^[0-9]/ && a > 0 && a <= x && b <= y && c <= z) }'; then
        verdict="ABOVE THE BOUND" bad=1
    fi
    printf '%-24s %-20s %6s of %-5s %6s of %-5s %6s of %-5s %s\n' \
        "$1" "$2" "${6:--}" "$3" "${7:--}" "$4" "${8:--}" "$5" "$verdict"
}

check asymmetric-pin pin_only 999 0 0
check asymmetric-pin unpin_only 999 0 0
check asymmetric-pin pin_and_unpin 999 0 0
check adaptive-pin pin_and_unpin 999 0 0
check fenced-pin pin_only 999 1 0
check fenced-pin unpin_only 999 1 0
check asymmetric-elsewhere pin_and_unpin 999 0 0
check asymmetric-between pin_and_unpin 999 0 0
check fenced-between pin_and_unpin 999 2 0
check fenced-break break_and_reopen 9999 99 0
# One barrier. (And two looks at the clock, which are system calls under valgrind only.)
check asymmetric-break break_and_reopen 9999 99 3

expected=$(count asymmetric-pin pin_and_unpin)
python3 scripts/bench_asm.py "$binary" 'instructions::pin_and_unpin' "${expected%%.*}" || bad=1
exit "$bad"
