#!/usr/bin/env bash
# Takes one flush, fence, wait or check out of the store of examples/pmem_kv at a time, and expects the test that is
# named for it to notice: its crash test, above all.
#
#   scripts/pmem_kv_mutants.sh            all mutants
#   scripts/pmem_kv_mutants.sh NAME ...   these
#
# A mutant is a change of the store's source, made in a copy. It counts as killed only if it compiles and the test
# that is named for it fails on it, within ten minutes (one that hangs is told apart, and is no kill), and says the
# words that are to be expected. Without names those tests must also pass on the source as it is. Prints the table:
# mutant, verdict, test target, seconds, what the test said.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
copy=$target/pmem_kv_mutants
rm -rf "$copy" && mkdir -p "$copy" || exit 1
target=$(cd "$target" && pwd)
copy=$target/pmem_kv_mutants
logs=$target/pmem_kv_mutants.logs
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
together=(pmem_kv_crash whatever_a_crash_leaves_of_several_writers_is_a_sound_pool_with_everything_acknowledged)
left=(pmem_kv_crash whatever_a_crash_leaves_of_a_pool_that_was_left_amid_something_is_sound_too)
late=(pmem_kv_store readers::pages_are_not_free_before_every_earlier_change_is_on_the_media)
if [ ${#only[@]} -eq 0 ]; then
    judge crash "${crash[@]}" ''
    judge together "${together[@]}" ''
    judge left "${left[@]}" ''
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
    write.rs 's/^        fresh\.flush()?;$/        if let Some(old) = old { self.retire(old.extent, 0)?; }\n&/' \
    write.rs 's/self\.retire(old\.extent, position)?;/let _ = (old, position);/'
mutant del_frees_early "${torn[@]}" \
    mod.rs 's/^        let position = self\.publish(&mut \[\], &\[(old\.slot, 0)\])?;/        self.retire(old.extent, 0)?;\n&/' \
    mod.rs 's/self\.retire(old\.extent, position)?;/let _ = position;/'
mutant move_frees_early "${torn[@]}" \
    compact.rs 's/^        let position = self\.publish(/        for extent in \&moves.old { self.retire(*extent, 0)?; }\n&/' \
    compact.rs 's/self\.retire(\*extent, position)?;/let _ = position;/'
# What one writer alone cannot notice. A fence is left out while somebody else is at one, too; a sync serves those who
# came during it. Nobody takes turns: writers of one key; a compaction and the writers of what it moves.
amid=("${together[@]}" 'slot [0-9]+, pages.*|neither the old nor the new contents')
twice=("${together[@]}" 'pages [0-9.]+ are not all in use|NotUsed|neither the old nor the new contents')
mutant record_fence_shared "${amid[@]}" write.rs \
    's/^            self\.fence("waiting for the record")?;/            let alone = { let mut all = self.positions.lock(); let me = all.begin(); all.end(me) == me };\n            if alone {\n&\n            }/'
mutant entry_fence_shared "${amid[@]}" write.rs \
    's/^        self\.fence("waiting for the directory entry")?;/        let alone = { let mut all = self.positions.lock(); all.end(position) == position };\n        if alone {\n&\n        }/'
mutant sync_serves_late "${amid[@]}" media.rs 's/state\.served = all;/state.served = state.come;/'
mutant put_without_turn "${twice[@]}" write.rs 's/^        let turn = self\.turn(key);/        let turn = ();/; s/^        drop(turn);/        let () = turn;/'
mutant del_without_turn "${twice[@]}" mod.rs 's/^        let turn = self\.turn(key);/        let turn = ();/; s/^        drop(turn);/        let () = turn;/'
mutant move_without_turns "${twice[@]}" \
    compact.rs 's/let turns: Vec<_> = turns\.into_iter()\.map(|i| lock(&self\.turns\[i\]))\.collect();/let _ = (lock, \&turns);/; s/^        drop(turns);//'
# What an earlier process has left in a cache is not brought to the media before its pages are used.
amid_left=("${left[@]}" 'slot [0-9]+, pages.*|neither the old nor the new contents')
mutant left_flush "${amid_left[@]}" mapping/mod.rs '/^        self\.flush(DIRECTORY \* PAGE\.\.self\.mapping\.floor \* PAGE)?;/d'
mutant left_fence "${amid_left[@]}" mapping/mod.rs '/fn settle(/,/^    }/ s/^        self\.fence()/        Ok(())/'
mutant left_clean "${amid_left[@]}" mapping/mod.rs 's/^        if self\.mapping\.media\.forgets() {/        if false {/'
# What a change that ended early has freed does not wait for one that began before it.
mutant durable_at_once "${late[@]}" 'left: 9' write.rs 's/self\.guard\.durable(durable);/self.guard.durable(durable.max(u64::MAX));/'
mutant position_forgotten "${late[@]}" 'left: 9' retired.rs 's/self\.guard\.retire_after(extent, position)/self.guard.retire_after(extent, position.min(0))/'
# A look-up is not made again after the pin; it takes what writers hold while they wait.
stale=(pmem_kv_store readers::a_look_up_whose_pages_are_somebody_elses_by_now_is_made_again 'assertion')
waits=(pmem_kv_store readers::get_goes_on_while_a_compaction_waits_for_the_place_it_moves_to 'Err\(Timeout\)')
mutant no_second_look "${stale[@]}" mod.rs 's/Ok(record) if self\.index\.get(key) == Some(entry) =>/Ok(record) =>/'
mutant get_takes_a_turn "${waits[@]}" mod.rs 's/^            let Some(entry) = self\.index\.get(key) else {/            let _turn = self.turn(key);\n&/'
# A hole is not punched; the file is not cut off.
hole=(pmem_kv_store space::freed_pages_go_back_to_the_file_system 'panicked')
mutant no_hole "${hole[@]}" mapping/mod.rs 's/FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;/FallocateFlags::KEEP_SIZE;/'
mutant no_cut "${hole[@]}" compact.rs 's/^        let Some(at) = pool\.set_tail_aside() else {/        let Some(at) = pool.set_tail_aside().filter(|at| *at == 0) else {/'
# Recovery: older records of a deleted key; a record around another one; a directory full of damage; the last number.
older=(pmem_kv_damage a_deleted_key_stays_deleted_when_there_are_older_records_of_it 'panicked at tests')
around=(pmem_kv_damage a_record_around_another_one_keeps_its_pages 'panicked at tests')
directory=(pmem_kv_damage a_directory_full_of_damage_is_told 'Err\(Io')
number=(pmem_kv_damage a_pool_without_another_sequence_number_is_told 'panicked at tests')
mutant older_left "${older[@]}" mod.rs '/^        self\.forget_older(key)?;/d'
mutant rest_is_free "${around[@]}" check.rs '/^        space\.claim_the_rest(entry\.extent);/d'
mutant slot_behind_the_end "${directory[@]}" slots.rs 's/chain(\[&len\])/chain([\&(len + 1)])/'
mutant number_wraps "${number[@]}" write.rs 's/last\.checked_add(1)/Some(last.wrapping_add(1))/; s/last\.map(|last| last + 1)/last.map(|last| last.wrapping_add(1))/'
if [ "$known" -lt "${#only[@]}" ]; then
    echo "no such mutant among: ${only[*]}"
    exit 1
fi
[ "$wrong" -eq 0 ]
