#!/usr/bin/env bash
# The promises where the system refuses membarrier: from the start, as an old kernel or a system call filter
# does, so that everything is fenced; and after it had been granted, so that the way round it is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v strace >/dev/null; then
    echo "SKIPPED: no strace here"
    exit 0
fi
if ! strace -qq -e trace=none true 2>/dev/null; then
    echo "SKIPPED: strace may not trace here"
    exit 0
fi
binary=$(cargo test --locked --test promises --no-run --message-format=json 2>/dev/null |
    grep -oE '"executable":"[^"]+"' | tail -n 1 | cut -d'"' -f4)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

refused() { # from which call on
    local log=$logs/calls$1 out=$logs/tests$1 refused
    # Real processes, threads and forks: what the injection slows down, it slows down for all.
    strace -f --seccomp-bpf -qq -o "$log" -e trace=membarrier -e "inject=membarrier:error=ENOSYS$1" \
        "$binary" --test-threads 2 i0 i1 corner >"$out" 2>&1 || {
        tail -n 30 "$out"
        return 1
    }
    refused=$(grep -c INJECTED "$log" || true)
    [ "$refused" -gt 0 ] || { echo "no membarrier was refused: nothing was shown" && return 1; }
    echo "membarrier refused$1: $(grep -c '\.\.\. ok$' "$out") tests passed, $refused calls refused"
}
# Both at a time, so that no processor is idle.
refused "" &
first=$!
refused ":when=5+" &
second=$!
failed=0
wait "$first" || failed=1
wait "$second" || failed=1
exit "$failed"
