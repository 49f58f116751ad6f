#!/usr/bin/env python3
"""Fails if a page of target/doc/layout_lease links to, or shows, a file that is not there, or a place in a page that is not.

rustdoc checks the links that it makes itself; not those in pages that are shared with the repository.
"""

import html.parser
import os
import pathlib
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "doc"


class Page(html.parser.HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.add(attrs["id"])
        target = attrs.get("href") if tag == "a" else attrs.get("src") if tag == "img" else None
        if target:
            self.links.append(target)


def is_place(name, ids):
    return name in ids or urllib.parse.unquote(name) in ids


def is_plot_to_come(path):
    """The plots and BENCHMARKS.md are measured together; before, there are none."""
    return path.startswith("plots/") and not (ROOT / "BENCHMARKS.md").exists()


def main():
    pages = {path: Page(path) for path in (DOCS / "layout_lease").rglob("*.html")}
    if not any(path.parent.name == "guide" for path in pages):
        sys.exit(f"no guide below {DOCS}: run cargo doc first")
    bad = []
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            # Methods of other crates' traits bring their own documentation, whose links are theirs.
            if url.scheme or url.netloc or (url.path and "." not in url.path):
                continue
            target = path if not url.path else pathlib.Path(os.path.normpath(path.parent / urllib.parse.unquote(url.path)))
            if not target.exists() and is_plot_to_come(url.path):
                continue
            if not target.exists():
                bad.append(f"{path.relative_to(DOCS)}: {link}")
            elif url.fragment and target in pages and not is_place(url.fragment, pages[target].ids):
                bad.append(f"{path.relative_to(DOCS)}: {link}, no such place")
    if bad:
        sys.exit("\n".join(sorted(bad)))
    print(f"doc links: {sum(len(p.links) for p in pages.values())} in {len(pages)} pages")


if __name__ == "__main__":
    main()
