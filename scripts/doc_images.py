#!/usr/bin/env python3
"""Writes docs/images.md: every picture of docs/ as a link definition with its data in it.

A page of docs/ shows a picture by reference, `![text][name]`, and says at its end where the file is. rustdoc knows no
such file; but there this list comes first, and of two definitions the first counts.

    doc_images.py            writes the list
    doc_images.py --check    fails if the list is not up to date
"""

import pathlib
import sys
import urllib.parse

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
LIST = DOCS / "images.md"


def definitions():
    lines = ["<!-- By scripts/doc_images.py: the pictures, for rustdoc. -->", ""]
    for picture in sorted([*DOCS.glob("*.svg"), *DOCS.glob("plots/*.svg")], key=lambda p: p.stem):
        data = urllib.parse.quote(" ".join(picture.read_text().split("\n")).strip(), safe="/:=,;()'!*@$+.-_~")
        lines.append(f"[{picture.stem}]: data:image/svg+xml,{data.replace('(', '%28').replace(')', '%29')}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = definitions()
    if sys.argv[1:] == ["--check"]:
        if LIST.read_text() != text:
            sys.exit("docs/images.md is not up to date: run scripts/doc_images.py")
    else:
        LIST.write_text(text)
