#!/usr/bin/env python3
"""Draws docs/flow.svg: what a pin and a break do, and where they meet. Readable in light and in dark.

    flow.py            writes the picture
    flow.py --check    fails if the picture is not what this script draws
"""

import pathlib
import sys

PICTURE = pathlib.Path(__file__).resolve().parent.parent / "docs/flow.svg"
WIDTH, HEIGHT = 980, 424
BOX_WIDTH, BOX_HEIGHT, GAP, LEFT = 104, 44, 32, 30
HOLDER_Y, BREAKER_Y = 84, 236

LIGHT = {
    "ground": "#ffffff", "ink": "#1f2933", "faint": "#52606d", "line": "#66727f",
    "pin": ("#dbeafe", "#2563eb"), "break": ("#fdebdc", "#c2570c"), "proof": ("#d8f3e2", "#15803d"),
}
DARK = {
    "ground": "#161b22", "ink": "#e6edf3", "faint": "#a9b4c0", "line": "#98a4b0",
    "pin": ("#15305c", "#6ea8fe"), "break": ("#4a2b12", "#f0a35e"), "proof": ("#143d27", "#5cc98b"),
}


def colours(palette):
    rules = [
        f".ground {{ fill: {palette['ground']}; }}",
        f"text {{ fill: {palette['ink']}; }}",
        f"text.small {{ fill: {palette['faint']}; }}",
        f"text.ink {{ fill: {palette['ink']}; }}",
        f"path {{ stroke: {palette['line']}; }}",
        f"marker path {{ fill: {palette['line']}; stroke: none; }}",
    ]
    for kind in ("pin", "break", "proof"):
        fill, edge = palette[kind]
        rules.append(f".{kind} {{ fill: {fill}; stroke: {edge}; }}")
    rules.append("rect.bar { stroke: none; }")
    return "\n".join(rules)


STYLE = f"""
text {{ font: 15px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; text-anchor: middle; }}
text.small {{ font-size: 12.5px; }}
text.left {{ text-anchor: start; }}
text.lane {{ font-size: 13px; font-weight: 600; text-anchor: start; }}
rect.next {{ stroke-dasharray: 5 4; }}
path {{ fill: none; stroke-width: 1.6; }}
{colours(LIGHT)}
@media (prefers-color-scheme: dark) {{
{colours(DARK)}
}}
"""


def left(column):
    return LEFT + column * (BOX_WIDTH + GAP)


def middle(column):
    return left(column) + BOX_WIDTH / 2


def box(kind, column, y, text):
    x = left(column)
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" stroke-width="1.5"/>',
        f'<text x="{middle(column):g}" y="{y + 27}">{text}</text>',
    ]


def under(column, y, *lines):
    rows = enumerate(lines)
    return [f'<text class="small" x="{middle(column):g}" y="{y + BOX_HEIGHT + 19 + 16 * n}">{line}</text>' for n, line in rows]


def across(column, y):
    x = left(column) + BOX_WIDTH
    return [f'<path d="M{x + 3} {y + BOX_HEIGHT / 2:g} H{x + GAP - 3}" marker-end="url(#head)"/>']


def upright(column, start, end, *lines):
    x = middle(column)
    out = [f'<path d="M{x:g} {start} V{end}" marker-end="url(#head)"/>']
    top = (start + end) / 2 + 4 - 8 * (len(lines) - 1)
    for n, line in enumerate(lines):
        out.append(f'<text class="small left" x="{x + 9:g}" y="{top + 16 * n:g}">{line}</text>')
    return out


def bar(kind, start, end, y, text):
    return [
        f'<rect class="{kind} bar" x="{start:g}" y="{y}" width="{end - start:g}" height="24" rx="5"/>',
        f'<text class="small ink" x="{(start + end) / 2:g}" y="{y + 16.5}">{text}</text>',
    ]


def draw():
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">pin, slot, unpin; break, gate, scan, wait, drained, free, reopen</title>',
        f"<style>{STYLE.strip()}</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 z"/></marker></defs>',
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
        f'<text class="lane" x="{LEFT}" y="40">Who uses pages</text>',
        f'<text class="lane" x="{LEFT}" y="{BREAKER_Y - 14}">Who frees them</text>',
    ]
    for column, name in [(1, "pin"), (2, "slot"), (3, "unpin")]:
        out += box("pin", column, HOLDER_Y, name)
    out += box("pin next", 6, HOLDER_Y, "pin")
    out += across(1, HOLDER_Y) + across(2, HOLDER_Y)
    for column, text in [(1, "look: open?"), (2, "has the range"), (3, "look: awaited?"), (6, "the next one")]:
        out.append(f'<text class="small" x="{middle(column):g}" y="{HOLDER_Y - 11}">{text}</text>')
    flow = ["break", "gate", "scan", "wait", "drained", "free", "reopen"]
    for column, name in enumerate(flow):
        out += box("proof" if name in ("drained", "free") else "break", column, BREAKER_Y, name)
        if column + 1 < len(flow):
            out += across(column, BREAKER_Y)
    notes = [
        ("takes a ticket",), ("closes the range",), ("all slots in use",), ("spin, then sleep",), ("the proof",),
        ("your block map",), ("drop of the proof",),
    ]
    for column, lines in enumerate(notes):
        out += under(column, BREAKER_Y, *lines)
    below, above = HOLDER_Y + BOX_HEIGHT + 4, BREAKER_Y - 4
    out += upright(1, above, below, "closed:", "refused")
    out += upright(2, above, below, "who is", "there?")
    out += upright(3, below, above, "the last", "one wakes")
    out += upright(6, above, below, "granted")
    start, end = left(1) + 8, left(6) + BOX_WIDTH / 2
    out += bar("break", start, end, BREAKER_Y + 82, "closed: no new pin of these pages; pins of others go on")
    out += bar("proof", left(4), end, BREAKER_Y + 112, "closed and idle: blocks may be freed")
    out.append(
        f'<text class="small left" x="{LEFT}" y="{HEIGHT - 22}">'
        "Each side stores first and looks second, with a barrier between.</text>"
    )
    out.append("</svg>")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    picture = draw()
    if sys.argv[1:] == ["--check"]:
        if PICTURE.read_text() != picture:
            sys.exit(f"{PICTURE.name} is not what scripts/flow.py draws: run it")
    else:
        PICTURE.write_text(picture)
