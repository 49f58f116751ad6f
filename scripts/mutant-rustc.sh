#!/usr/bin/env bash
# Writes a wrapper for rustc that compiles this crate with one of its mutants, and prints its path, for
# RUSTC_WORKSPACE_WRAPPER. So only the crate itself is built anew, not what it depends on; and since the
# path is part of what cargo looks at, each mutant has its own.
#
#   scripts/mutant-rustc.sh FOLDER NAME      (the name `none` is the crate as it is; `a+b` is both in one)
set -euo pipefail
mkdir -p "$1"
wrapper=$(cd "$1" && pwd)/$2
flag=
[ "$2" = none ] || for name in ${2//+/ }; do flag+="--cfg 'lease_mutant=\"$name\"' "; done
printf '#!/bin/sh\nrustc=$1; shift\nexec "$rustc" "$@" %s\n' "$flag" >"$wrapper.new"
chmod +x "$wrapper.new"
mv "$wrapper.new" "$wrapper"
echo "$wrapper"
