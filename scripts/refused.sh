#!/usr/bin/env bash
# The promises where the system refuses membarrier: from the start, as an old kernel or a system call filter
# does, so that everything is fenced; and after it had been granted, so that the way round it is taken.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v strace >/dev/null; then
    echo "SKIPPED: no strace here"
    exit 0
fi
binary=$(cargo test --locked --test promises --no-run --message-format=json 2>/dev/null |
    grep -oE '"executable":"[^"]+"' | tail -n 1 | cut -d'"' -f4)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for when in "" ":when=5+"; do
    # Real processes, threads and forks: what the injection slows down, it slows down for all.
    strace -f --seccomp-bpf -qq -o "$log" -e trace=membarrier -e "inject=membarrier:error=ENOSYS$when" \
        "$binary" --test-threads 2 i0 i1 corner >"$log.out" 2>&1 || {
        tail -n 30 "$log.out"
        exit 1
    }
    refused=$(grep -c INJECTED "$log" || true)
    [ "$refused" -gt 0 ] || { echo "no membarrier was refused: nothing was shown" && exit 1; }
    echo "membarrier refused$when: $(grep -c '\.\.\. ok$' "$log.out") tests passed, $refused calls refused"
    rm -f "$log.out"
done
