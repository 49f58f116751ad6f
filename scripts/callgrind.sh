#!/usr/bin/env bash
# Guards the fast paths without trusting a clock. Over benches/instructions.rs, by callgrind:
#
# - instructions, locked instructions and system calls of one pin, one unpin and one idle break, each with a bound
#   in scripts/callgrind-bounds;
# - the disassembly of the path that a pin, an unpin and both together take: no call, no lock, no fence.
#
#   scripts/callgrind.sh         fails above a bound; SKIPPED where valgrind or objdump are missing
#   scripts/callgrind.sh --doc   writes the disassembly into docs/performance.md, too
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
"" | --doc) ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
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

run() { # FUNCTION WHAT N, and options: counts only what FUNCTION and what it calls execute
    valgrind --tool=callgrind --collect-atstart=no --toggle-collect="instructions::$1*" \
        --callgrind-out-file="$work/out" "${@:4}" "$binary" "$2" "$3" 2>&1
}

# Without membarrier an asymmetric guard is a fenced one, and its figures are those of fences.
membarrier=$(valgrind --tool=none -q "$binary" membarrier)
echo "membarrier: $("$binary" membarrier) here, $membarrier under valgrind"

# "instructions, locked instructions, system calls" of one FUNCTION call. What the first costs (threads, tables) is
# the same for any N: so the difference of two runs, divided by the difference of their N.
count() { # WHAT FUNCTION
    local n
    for n in 1000 3000; do
        run "$2" "$1" "$n" --collect-bus=yes --collect-systime=yes | awk '/Collected/ {print $4, $5, $6}'
    done | awk '
        { for (i = 1; i <= 3; i++) seen[NR, i] = $i }
        END { for (i = 1; i <= 3; i++) printf "%.1f ", (seen[2, i] - seen[1, i]) / 2000 }'
}

bad=0
printf '%-22s %-17s %16s %12s %14s\n' what function instructions locked 'system calls'
while read -r what function most most_locked most_calls; do
    [[ $what == \#* || -z $what ]] && continue
    if [[ $membarrier != granted && $what != fenced-* ]]; then
        printf '%-22s %-17s SKIPPED: membarrier is %s\n' "$what" "$function" "$membarrier"
        continue
    fi
    read -r instructions locked calls <<<"$(count "$what" "$function")"
    verdict=ok
    awk -v a="${instructions:-0}" -v b="${locked:-0}" -v c="${calls:-0}" \
        -v x="$most" -v y="$most_locked" -v z="$most_calls" \
        'BEGIN { exit !(a > 0 && a <= x && b <= y && c <= z) }' || verdict="ABOVE THE BOUND" bad=1
    printf '%-22s %-17s %7s of %-5s %5s of %-3s %7s of %-3s %s\n' \
        "$what" "$function" "$instructions" "$most" "$locked" "$most_locked" "$calls" "$most_calls" "$verdict"
done <scripts/callgrind-bounds

if [ "$membarrier" = granted ]; then
    echo
    for function in pin_only unpin_only pin_and_unpin; do
        run "$function" asymmetric-pin 1000 --dump-instr=yes --compress-pos=no --compress-strings=no >"$work/log"
        python3 scripts/bench_asm.py "$work/out" "$binary" "instructions::$function" 1000 || bad=1
    done >"$work/asm"
    cat "$work/asm"
    if [ "${1:-}" = --doc ] && [ "$bad" = 0 ]; then
        python3 scripts/bench_doc.py docs/performance.md fast-paths <"$work/asm"
    fi
fi
exit "$bad"
