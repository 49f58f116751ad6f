#!/usr/bin/env bash
# Breaks one ordering, fence or step at a time and expects a named loom model to notice.
#
#   scripts/mutants.sh            all mutants
#   scripts/mutants.sh NAME ...   these
#
# A mutant is a value of `--cfg lease_mutant` that the crate's source knows. It counts as killed only if
# it compiles and the model that scripts/mutant-models names for it fails on it; and all models must pass
# on the crate as it is. Prints the table: mutant, verdict, model, seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/loom
wrapper=$target/mutants
mkdir -p "$wrapper"

mutants=("$@")
if [ ${#mutants[@]} -eq 0 ]; then
    # Every mutant that the source knows, except the broken control of the hostile test.
    mapfile -t mutants < <(grep -rhoE 'lease_mutant = "[a-z_]+"' src | cut -d'"' -f2 | sort -u | grep -vx gate_ignored)
fi

build() { # name
    RUSTFLAGS="--cfg lease_loom" CARGO_TARGET_DIR=$target \
        RUSTC_WORKSPACE_WRAPPER=$(scripts/mutant-rustc.sh "$wrapper" "$1") \
        cargo test --release --locked --test loom_core --test loom_leases --no-run --message-format=json \
        2>"$wrapper/$1.log" | grep -oE '"executable":"[^"]+"' | cut -d'"' -f4
}

models_of() { # binary
    "$1" --list --format terse | sed -n 's/: test$//p'
}

run() { # model, among the binaries
    local binary
    for binary in $binaries; do
        if models_of "$binary" | grep -qx "$1"; then
            RUST_BACKTRACE=0 timeout 300 "$binary" --exact "$1" --nocapture
            return
        fi
    done
    echo "no such model: $1"
}

survivors=0
printf '%-22s %-9s %-48s %s\n' mutant verdict model seconds
for mutant in none "${mutants[@]}"; do
    start=$SECONDS
    binaries=$(build "$mutant")
    if [ "$(wc -w <<<"$binaries")" -ne 2 ]; then
        printf '%-22s %-9s\n' "$mutant" 'NO BUILD'
        survivors=$((survivors + 1))
        continue
    fi
    if [ "$mutant" = none ]; then
        models=$(for binary in $binaries; do models_of "$binary"; done)
    else
        models=$(awk -v m="$mutant" '$1 == m {print $2}' scripts/mutant-models)
    fi
    killer=
    for model in $models; do
        run "$model" >"$wrapper/$mutant.$model.log" 2>&1 && continue
        killer=$model
        break
    done
    case $mutant,$killer in
    none,) verdict=passes ;;
    none,*) verdict=BROKEN ; survivors=$((survivors + 1)) ;;
    *,) verdict=SURVIVES ; survivors=$((survivors + 1)) ;;
    *) verdict=killed ;;
    esac
    [ "$mutant" = none ] && models=all
    printf '%-22s %-9s %-48s %s\n' "$mutant" "$verdict" "${killer:-${models:-no model is named}}" "$((SECONDS - start))"
done
[ "$survivors" -eq 0 ]
