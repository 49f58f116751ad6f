#!/usr/bin/env bash
# Reads the output of `cargo test` and fails unless every target in scripts/test-counts ran at least as
# many tests as it should, so that none can silently vanish.
#
#   scripts/counts.sh FILE
set -euo pipefail
cd "$(dirname "$0")"
awk '
    NR == FNR { if ($1 !~ /^#/ && NF == 2) want[$1] = $2; next }
    /^ *Running / {
        target = $2 == "unittests" ? $3 : $2
        sub(/^.*examples\//, "examples/", target)
    }
    /^ *Doc-tests / { target = "doc" }
    /^test result: ok\. / { ran[target] += $4 }
    END {
        for (t in want) {
            verdict = ran[t] + 0 >= want[t] ? "ok" : "TOO FEW"
            if (verdict != "ok") bad = 1
            printf "%-28s %4d of at least %4d  %s\n", t, ran[t], want[t], verdict
        }
        exit bad
    }
' test-counts "$1" | sort
