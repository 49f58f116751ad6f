"""SVG charts without any library, readable on light and on dark ground."""

import html
import math

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 74, 20, 46, 56

# Hues that stay apart on both grounds, also without red and green.
LIGHT = ["#0b6fb8", "#c4500a", "#11805d", "#8a4fbf", "#8c6a00", "#b3306b", "#5f6b76"]
DARK = ["#5ab4f5", "#ff9a57", "#45c99b", "#c39bf0", "#e0bb45", "#f27fb2", "#a9b4bf"]


def style():
    def rules(colours):
        return "".join(f".c{i}{{stroke:{c};fill:{c}}}" for i, c in enumerate(colours))

    return (
        "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:15px;font-weight:600}"
        ".ground{fill:#fff}.grid{stroke:#d8dee4}.axis{stroke:#6e7781}.line{fill:none;stroke-width:2}"
        ".bar{stroke:none}.spread{stroke-width:1;opacity:.55}.limit{stroke:#6e7781;stroke-dasharray:5 4}"
        + rules(LIGHT)
        + ".line{fill:none}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ground{fill:#0d1117}.grid{stroke:#30363d}"
        ".axis,.limit{stroke:#8b949e}" + rules(DARK) + ".line{fill:none}}</style>"
    )


def text(x, y, words, anchor="middle", more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(str(words))}</text>'


def line(x1, y1, x2, y2, classes):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>'


def frame(title, body, height=HEIGHT):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>{html.escape(title)}</title>{style()}'
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>'
        + text(WIDTH / 2, 22, title, more=' class="title"')
        + "".join(body)
        + "</svg>\n"
    )


def power_label(value):
    exponent = round(math.log10(value))
    if 0 <= exponent <= 3 or -2 <= exponent < 0:
        return f"{value:g}"
    return f"10^{exponent}"


class Scale:
    """From values to pixels; logarithmic or linear."""

    def __init__(self, values, begin, end, log):
        self.begin, self.end, self.log = begin, end, log
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        else:
            low = min(low, 0)
        margin = (high - low or 1) * 0.04
        self.low, self.high = (low - margin if log else low), high + margin

    def __call__(self, value):
        value = math.log10(value) if self.log else value
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self):
        if not self.log:
            step = 10 ** math.floor(math.log10((self.high - self.low) or 1))
            while (self.high - self.low) / step < 4:
                step /= 2
            first = math.ceil(self.low / step)
            return [(n * step, f"{n * step:g}") for n in range(first, int(self.high / step) + 1)]
        first, last = math.ceil(self.low), math.floor(self.high)
        apart = max(1, (last - first) // 7)
        values = [10.0**e for e in range(first, last + 1, apart)]
        if len(values) < 3:
            values = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
            values = [v for v in values if self.low <= math.log10(v) <= self.high]
            return [(v, f"{v:g}") for v in values]
        return [(v, power_label(v)) for v in values]


def lines(title, across, up, series, log_x=True, log_y=True, ticks=None, limits=()):
    """`series`: (name, [(x, middle, low, high)]); `ticks`: other labels for x; `limits`: (y, words)."""
    points = [p for _, ps in series for p in ps]
    x = Scale([p[0] for p in points], LEFT, WIDTH - RIGHT, log_x)
    height = HEIGHT + 18 * ((len(series) + 2) // 3)
    ys = [v for p in points for v in p[1:]] + [limit for limit, _ in limits]
    y = Scale(ys, HEIGHT - BOTTOM, TOP, log_y)
    body = []
    for value, label in y.ticks():
        body.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        body.append(text(LEFT - 8, y(value) + 4, label, "end"))
    for value, label in ticks or x.ticks():
        body.append(line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 5, "axis"))
        body.append(text(x(value), HEIGHT - BOTTOM + 19, label))
    body.append(line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    body.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 40, across))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    body.append(text(16, middle, up, more=f' transform="rotate(-90 16 {middle})"'))
    for limit, words in limits:
        body.append(line(LEFT, y(limit), WIDTH - RIGHT, y(limit), "limit"))
        body.append(text(WIDTH - RIGHT - 4, y(limit) - 5, words, "end"))
    for at, (name, ps) in enumerate(series):
        colour = f"c{at % len(LIGHT)}"
        path = " ".join(f"{x(p[0]):.1f},{y(p[1]):.1f}" for p in ps)
        body.append(f'<polyline points="{path}" class="{colour} line"/>')
        for px, mid, low, high in ps:
            body.append(line(x(px), y(low), x(px), y(high), f"{colour} spread"))
            body.append(f'<circle cx="{x(px):.1f}" cy="{y(mid):.1f}" r="3" class="{colour}"/>')
        left, top = LEFT + (at % 3) * 220, HEIGHT + 4 + 18 * (at // 3)
        body.append(line(left, top - 4, left + 22, top - 4, f"{colour} line"))
        body.append(text(left + 28, top, name, "start"))
    return frame(title, body, height)


def bars(title, across, groups, rows):
    """Bars from left to right on a logarithmic scale; `rows`: (label, [(middle, low, high) or None])."""
    label_width, bar, gap = 150, 11, 9
    step = bar * len(groups) + gap
    top = TOP + 22
    height = top + step * len(rows) + 50
    values = [v for _, cells in rows for cell in cells if cell for v in cell]
    low = 10 ** math.floor(math.log10(min(values)))
    x = Scale([low, max(values)], label_width, WIDTH - 70, True)
    body = []
    for value, label in x.ticks():
        body.append(line(x(value), top - 6, x(value), height - 42, "grid"))
        body.append(text(x(value), height - 28, label))
    body.append(text((label_width + WIDTH - 70) / 2, height - 10, across))
    for at, name in enumerate(groups):
        left = label_width + at * 150
        body.append(f'<rect x="{left}" y="{TOP - 10}" width="12" height="12" class="c{at} bar"/>')
        body.append(text(left + 18, TOP, name, "start"))
    for row, (label, cells) in enumerate(rows):
        above = top + row * step
        body.append(text(label_width - 8, above + step / 2, label, "end"))
        for at, cell in enumerate(cells):
            if not cell:
                continue
            y = above + at * bar
            begin, end = x(low), x(cell[0])
            body.append(f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 1):.1f}" height="{bar - 1}" class="c{at} bar"/>')
            body.append(text(x(cell[0]) + 6, y + bar - 2, f"{cell[0]:.3g}", "start"))
    return frame(title, body, height)
