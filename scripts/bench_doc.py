#!/usr/bin/env python3
"""Fills in the parts of a hand-written document that are measured.

    bench_doc.py DOCUMENT NAME < TEXT

Replaces what stands between `<!-- measured: NAME -->` and `<!-- end -->`; such text is shown as it is, in a fence.
"""

import pathlib
import re
import sys


def fill(document, name, text):
    path = pathlib.Path(document)
    begin, end = f"<!-- measured: {name} -->", "<!-- end -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    new = f"{begin}\n{text.strip(chr(10))}\n{end}"
    filled, times = re.subn(pattern, lambda _: new, path.read_text(), flags=re.S)
    if times != 1:
        sys.exit(f"{document} has {times} places for {name}")
    path.write_text(filled)


if __name__ == "__main__":
    fill(sys.argv[1], sys.argv[2], f"```text\n{sys.stdin.read().strip(chr(10))}\n```")
