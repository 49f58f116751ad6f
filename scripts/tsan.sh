#!/usr/bin/env bash
# ThreadSanitizer: data races, that is accesses which no edge of the crate orders. docs/orderings.md says what it
# can see and what not.
#
#   scripts/tsan.sh            everything but the controls
#   scripts/tsan.sh edges      the edges alone
#   scripts/tsan.sh controls   the mutants of the edges: each must be reported
SANITIZER=thread
# shellcheck source=scripts/sanitizer.sh
. "$(dirname "$0")/sanitizer.sh"
# Where the standard library as it is shipped hides an edge: the last drop of an `Arc` is ordered by a fence;
# the slow paths of its mutex, which event-listener uses, and of `OnceLock`, and its channel, which the test
# harness uses, are not instrumented.
cat >"$target/suppressions" <<'S'
race:<alloc::sync::Arc<*as core::ops::drop::Drop>::drop
race:alloc::sync::Arc<*>::drop_slow
race:event_listener::
race:std::sync::once
race:std::sync::mpmc
S
suppressions="suppressions=$(cd "$target" && pwd)/suppressions"
# Looking for the lines of a backtrace is the standard library's own affair.
export RUST_BACKTRACE=0

export TSAN_OPTIONS="halt_on_error=1 $suppressions"
# `slot_fill_relaxed` is not among them: a relaxed store by another thread cuts off what the release before it has
# released, but the sanitizer keeps that. So whoever sees the slot filled anew is taken to have seen it cleared.
if [ "${1:-}" = controls ]; then
    for broken in \
        slot_clear_relaxed:slot_cleared_then_scanned \
        scan_owner_relaxed:slot_cleared_then_scanned \
        slot_free_relaxed:slot_cleared_refilled \
        opened_relaxed:gate_opened_then_pinned \
        look_relaxed:gate_opened_then_pinned \
        token_made_relaxed:token_made \
        token_redeemed_relaxed:token_made; do
        control "${broken%%:*}" 'WARNING: ThreadSanitizer: data race' edges "${broken##*:}"
    done
    controls_done
fi
sanitized none test --test edges -- --test-threads 1
[ "${1:-}" != edges ] || exit 0

export TSAN_OPTIONS="exitcode=0 $suppressions"
reports() { # name, cargo's arguments
    local log=$target/$1.log whole=$PWD/$target/$1.reports
    [[ $target != /* ]] || whole=$target/$1.reports
    rm -f "$whole" "$whole".*
    # Each process has a file of its own, for other tests write between the lines otherwise.
    TSAN_OPTIONS="$TSAN_OPTIONS log_path=$whole" sanitized none test "${@:2}" >"$log" 2>&1 || { tail -n 40 "$log"; failed=1; }
    grep -E '^test result' "$log" || true
    cat "$log" "$whole".* >"$whole" 2>/dev/null || true
    scripts/tsan_reports.py "$whole" || failed=1
}
failed=0
PROPTEST_CASES=100 reports promises --test promises
PROPTEST_CASES=100 reports twin --test twin --test file_blocks
HOSTILE_SECONDS=10 reports hostile --test hostile
exit "$failed"
