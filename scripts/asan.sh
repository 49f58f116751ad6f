#!/usr/bin/env bash
# AddressSanitizer: use after free, reads and writes out of bounds, in the examples' `unsafe` and in what the
# dependencies do with the crate's values. docs/orderings.md says what it can see and what not.
#
#   scripts/asan.sh            everything but the controls
#   scripts/asan.sh controls   what must be reported
SANITIZER=address
. "$(dirname "$0")/sanitizer.sh"
export ASAN_OPTIONS="detect_stack_use_after_return=1 strict_string_checks=1 detect_leaks=0"

if [ "${1:-}" = controls ]; then
    control out_of_bounds 'ERROR: AddressSanitizer: heap-buffer-overflow' edges control
    control gate_ignored 'ERROR: AddressSanitizer: heap-use-after-free' edges memory_freed
    controls_done
fi
failed=0
part() { # cargo's arguments
    sanitized none "$@" || failed=1
}
export PROPTEST_CASES=300 HOSTILE_SECONDS=5
part test --test edges --test twin --test file_blocks --test pmem_kv_store --test pmem_kv_damage
part test --test promises
part test --test hostile
part run --example pmem_kv -- demo --seconds 5
part run --example uring_pool -- --seconds 3
part run --example collision -- --seconds 2
part run --example mmap_truncate -- --seconds 3
exit "$failed"
