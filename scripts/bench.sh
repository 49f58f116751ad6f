#!/usr/bin/env bash
# Runs all benches and writes BENCHMARKS.md, docs/plots/*.svg and the measured parts of docs/performance.md: less than
# 12 minutes on a quiet machine of two cores.
#
#   scripts/bench.sh             everything
#   scripts/bench.sh --smoke     everything once, into target/bench-smoke: that it runs and no row is missing
#
# Every round of every case is one line in target/bench-results/*.jsonl; criterion's own report is in
# target/criterion. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
benches=(pin peers break outstanding adaptive wait_latency)
case ${1:-} in
"") out=$target/bench-results args=() ;;
--smoke) out=$target/bench-smoke args=(--test) && export LEASE_BENCH_SMOKE=1 ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

rm -rf "$out"
mkdir -p "$out"
out=$(cd "$out" && pwd)
export LEASE_BENCH_OUT=$out

flags=()
for bench in "${benches[@]}"; do flags+=(--bench "$bench"); done
began=$SECONDS
cargo bench --locked --no-run "${flags[@]}"
echo "built: $((SECONDS - began)) s"

began=$SECONDS
# What is measured, for the report, which may be made anew later.
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain -- src benches Cargo.toml 2>/dev/null)" ]; then commit+=" with local changes"; fi
echo "$commit" >"$out/commit"
date -u '+%Y-%m-%d %H:%M UTC' >"$out/when"
cut -d' ' -f1 /proc/loadavg >"$out/load" 2>/dev/null || echo "?" >"$out/load"
for bench in "${benches[@]}"; do
    start=$SECONDS
    if ! cargo bench --locked --quiet --bench "$bench" -- "${args[@]}" >"$out/$bench.log" 2>&1; then
        tail -n 40 "$out/$bench.log" >&2
        echo "bench.sh: $bench failed, see $out/$bench.log" >&2
        exit 1
    fi
    echo "$bench: $((SECONDS - start)) s"
done
echo "$((SECONDS - began))" >"$out/seconds"
echo "all benches: $((SECONDS - began)) s, load average at the start $(cat "$out/load")"
python3 scripts/bench_report.py "$out" ${1:+"$1"}
if [ -z "${1:-}" ]; then
    scripts/callgrind.sh --doc
    scripts/doc_images.py
fi
