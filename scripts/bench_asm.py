#!/usr/bin/env python3
"""Shows and checks the fast path of a function: the instructions that callgrind has seen it execute nearly every time.

    bench_asm.py DUMP BINARY FUNCTION TIMES

DUMP is what callgrind wrote with --dump-instr=yes, positions and strings not compressed, of TIMES runs of FUNCTION. What
was executed in nine of ten of them is the path that is taken: the first one of a thread, or one that comes to the end
of a block of slots, takes another. Prints it, and fails if it has a call, a locked instruction, a fence or a system call.
"""

import re
import subprocess
import sys

FORBIDDEN = re.compile(r"^(lock|call|mfence|sfence|lfence|cpuid|syscall|int)\b|^xchg.*\(")


def executed(dump, function):
    """{address: how often}, for instructions of the function itself."""
    counts, inside, is_call = {}, False, False
    for line in open(dump, encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("fn="):
            inside = line[3:] == function
        elif line.startswith("calls="):
            is_call = True
        elif line.startswith("0x"):
            if inside and not is_call:
                address, _, count = line.split()
                counts[int(address, 16)] = counts.get(int(address, 16), 0) + int(count)
            is_call = False
    return counts


def disassembly(binary):
    """{address: instruction}, without padding, addresses of the binary and objdump's remarks."""
    words = ["objdump", "-d", "-C", "--no-show-raw-insn", binary]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = {}
    for address, words in re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", out, re.M):
        words = re.sub(r"\s+#.*", "", words)
        words = re.sub(r"[0-9a-f]+ <[^>]*?(\+0x[0-9a-f]+)?>", r"\1", words)
        words = re.sub(r"0x[0-9a-f]+\(%rip\)", "(%rip)", words)
        found[int(address, 16)] = re.sub(r"\s+", " ", words).strip()
    return found


def main():
    dump, binary, function, times = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    counts, words = executed(dump, function), disassembly(binary)
    path = [words[address] for address in sorted(counts) if counts[address] * 10 >= times * 9]
    if not path:
        sys.exit(f"{function}: callgrind has not seen it {times} times")
    bad = [instruction for instruction in path if FORBIDDEN.match(instruction)]
    print(f"{function.split('::')[-1]}: {len(path)} instructions")
    for instruction in path:
        print(f"    {instruction}")
    if bad:
        sys.exit(f"{function}: on the fast path: {', '.join(bad)}")


main()
