#!/usr/bin/env bash
# Takes one flush, one fence or one wait out of the store of examples/pmem_kv at a time, and expects its crash
# test to notice.
#
#   scripts/crash_mutants.sh            all mutants
#   scripts/crash_mutants.sh NAME ...   these
#
# A mutant is a change of the store's source, made in a copy. It counts as killed only if it compiles and the test
# that is named for it fails on it, within ten minutes (one that hangs is told apart, and is no kill), and says the
# words that are to be expected. Without names those tests must also pass on the source as it is. Prints the table:
# mutant, verdict, test target, seconds, what the test said.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
copy=$target/crash_mutants
rm -rf "$copy" && mkdir -p "$copy" || exit 1
target=$(cd "$target" && pwd)
copy=$target/crash_mutants
logs=$target/crash_mutants.logs
mkdir -p "$logs"
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- | tar -x -m -C "$copy"
store=examples/pmem_kv/store

build() { # name, test target
    (cd "$copy" && CARGO_TARGET_DIR=$target cargo test --locked --no-run --test "$2" --message-format=json) \
        2>"$logs/$1.build" | grep -oE '"executable":"[^"]+"' | cut -d'"' -f4
}

say() { # name, verdict, test target, since, words
    printf '%-20s %-9s %-14s %4d  %s\n' "$1" "$2" "$3" "$((SECONDS - $4))" "${5-}"
}

wrong=0
judge() { # name, test target, test, words of its failure; none: it has to pass
    local start=$SECONDS binary verdict words=
    binary=$(build "$1" "$2")
    if [ -z "$binary" ]; then
        verdict='NO BUILD'
    else
        RUST_BACKTRACE=0 timeout 600 "$binary" --exact "$3" --nocapture >"$logs/$1.log" 2>&1
        case $? in
        0) verdict=passes ;;
        124) verdict=HANGS ;;
        *) verdict=FAILS ;;
        esac
        if [ -n "$4" ]; then
            words=$(grep -aoE "$4.*" "$logs/$1.log" | head -n 1 | cut -c 1-110)
            [ $verdict = passes ] && verdict=SURVIVES
            [ $verdict = FAILS ] && [ -n "$words" ] && verdict=killed
        fi
    fi
    case $verdict in passes | killed) ;; *) wrong=$((wrong + 1)) ;; esac
    say "$1" "$verdict" "$2" "$start" "$words"
}

mutant() { # name, test target, test, words, then file and sed script, once or more often
    local name=$1 test=$2 case=$3 words=$4 file changed=
    [ ${#only[@]} -eq 0 ] || [[ " ${only[*]} " == *" $name "* ]] || return
    known=$((known + 1))
    shift 4
    while [ $# -gt 0 ]; do
        file=$store/$1
        changed+=" $file"
        cp -n "$copy/$file" "$copy/$file.orig"
        cp "$copy/$file" "$copy/$file.before"
        sed -i "$2" "$copy/$file"
        # Each change has to have changed something: the source goes on, and this script has to follow.
        cmp -s "$copy/$file" "$copy/$file.before" && name="$name:_$1"
        shift 2
    done
    if [[ $name == *:_* ]]; then
        say "$name" 'NO LINE' "$test" "$SECONDS"
        wrong=$((wrong + 1))
    else
        judge "$name" "$test" "$case" "$words"
    fi
    for file in $changed; do cp "$copy/$file.orig" "$copy/$file"; done
}

only=("$@")
known=0
printf '%-20s %-9s %-14s %4s  %s\n' mutant verdict test s said
crash=(pmem_kv_crash whatever_a_crash_leaves_is_a_sound_pool_with_everything_acknowledged)
torn=("${crash[@]}" 'slot [0-9]+, pages') # an entry names what is not there
lost=("${crash[@]}" 'neither the old nor the new contents')
late=(pmem_kv_store readers::pages_are_not_free_before_every_earlier_change_is_on_the_media)
if [ ${#only[@]} -eq 0 ]; then
    judge crash "${crash[@]}" ''
    judge late "${late[@]}" ''
fi

# A flush is left out: of a record, of what is moved, of an entry, of all entries of a batch but the first.
mutant record_flush "${torn[@]}" write.rs 's/\.map_or(Ok(()), |filling| filling\.flush())/.map_or(Ok(()), |_| Ok(()))/'
mutant move_flush "${torn[@]}" compact.rs 's/^            fresh\.flush()?;/            fresh.filling = None;/'
mutant entry_flush "${lost[@]}" write.rs 's/let flushed = pool\.flush(entry_bytes(slot));/let flushed = { let _ = entry_bytes; Ok(()) };/'
mutant entries_flush "${torn[@]}" write.rs \
    's/let flushed = pool\.flush(entry_bytes(slot));/let flushed = match slot == words[0].0 { true => pool.flush(entry_bytes(slot)), false => Ok(()) };/'
# A fence is left out: the one before the entry is stored, the one before it is acknowledged.
mutant record_fence "${torn[@]}" write.rs '/self\.fence("waiting for the record")?;/d'
mutant entry_fence "${lost[@]}" write.rs '/self\.fence("waiting for the directory entry")?;/d'
# The old pages are freed before the entry that does not name them is on the media: of a put, of a del, of a move.
mutant put_frees_early "${torn[@]}" \
    write.rs 's/^        let published = fresh$/        if let Some(old) = old { self.retire(old.extent, 0)?; }\n&/' \
    write.rs 's/self\.retire(old\.extent, position)?;/let _ = (old, position);/'
mutant del_frees_early "${torn[@]}" \
    mod.rs 's/^        let position = self\.publish(&mut \[\], &\[(old\.slot, 0)\])?;/        self.retire(old.extent, 0)?;\n&/' \
    mod.rs 's/self\.retire(old\.extent, position)?;/let _ = position;/'
mutant move_frees_early "${torn[@]}" \
    compact.rs 's/^        let position = self\.publish(/        for extent in \&moves.old { self.retire(*extent, 0)?; }\n&/' \
    compact.rs 's/self\.retire(\*extent, position)?;/let _ = position;/'
# What a change that ended early has freed does not wait for one that began before it.
mutant durable_at_once "${late[@]}" 'left: 9' write.rs 's/self\.guard\.durable(durable);/self.guard.durable(durable.max(u64::MAX));/'
mutant position_forgotten "${late[@]}" 'left: 9' retired.rs 's/self\.guard\.retire_after(extent, position)/self.guard.retire_after(extent, position.min(0))/'
if [ "$known" -lt "${#only[@]}" ]; then
    echo "no such mutant among: ${only[*]}"
    exit 1
fi
[ "$wrong" -eq 0 ]
