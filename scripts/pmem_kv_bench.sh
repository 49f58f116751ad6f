#!/usr/bin/env bash
# The bench table of examples/pmem_kv/README.md: some four minutes on an otherwise idle machine.
#
#   scripts/pmem_kv_bench.sh FILES [MEMORY]    FILES: a folder on a disk; MEMORY: one on a tmpfs, /dev/shm if not said
#
# The default mix with one thread and with two, then each operation for itself with one thread. Prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."
files=$1 memory=${2:-/dev/shm}
cargo build --release --locked --example pmem_kv
bench=("${CARGO_TARGET_DIR:-target}/release/examples/pmem_kv" bench --json)
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
for media in "volatile $memory" "file $files"; do
    read -r kind folder <<<"$media"
    run() { # threads, seconds, mix: none is the default
        "${bench[@]}" --media "$kind" --pool "$folder/bench" --threads "$1" --seconds "$2" "${@:3}" |
            sed "s/^{/{\"mix\":\"${4:-}\",/" >>"$lines"
    }
    run 1 2
    run 2 2
    for operation in read overwrite delete export; do run 1 1 --mix "$operation"; done
done
echo "$(nproc)-core $(grep -m 1 '^model name' /proc/cpuinfo | sed 's/.*: //'), Linux $(uname -r | cut -d. -f1,2), \`$memory\` is a" \
    "$(stat -f -c %T "$memory"), the files are on $(findmnt -n -o FSTYPE -T "$files"); commit $(git describe --always --dirty)"
python3 - "$lines" <<'PYTHON'
import json, sys

rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    kind = row["media"].split()[0]
    column = (kind, row["threads"], bool(row["mix"]))
    rows.setdefault((row["operation"], row["value_bytes"]), {})[column] = row

def size(n):
    return f"{n} B" if n < 1024 else f"{n >> 10} KiB" if n < 1 << 20 else f"{n >> 20} MiB"

def time(ns):
    us = ns / 1e3
    return f"{us:.2g}" if us < 10 else f"{us:,.0f}"

columns = [(kind, *rest) for kind in ("volatile", "file") for rest in ((1, False), (2, False), (1, True))]
head = ["in the mix, 1 thread", "in the mix, 2 threads", "by itself, 1 thread"] * 2
for kind in ("volatile", "file"):
    print(f"\n{kind} media, a second: p50 / p99 / p99.9 in µs\n")
    mine = [(column, text) for column, text in zip(columns, head) if column[0] == kind]
    print("| operation | value | " + " | ".join(text for _, text in mine) + " |")
    print("| --- | --: |" + " --: |" * len(mine))
    for (operation, value), cells in sorted(rows.items(), key=lambda r: (["read", "overwrite", "delete", "export"].index(r[0][0]), r[0][1])):
        texts = []
        for column, _ in mine:
            row = cells.get(column)
            texts.append("–" if row is None else f"{row['per_second']:,.0f}: " + " / ".join(time(row[q]) for q in ("p50_ns", "p99_ns", "p999_ns")))
        print(f"| {operation} | {size(value)} | " + " | ".join(texts) + " |")
PYTHON
