"""Tables and the picture of ``local.py``, as Markdown and SVG. Pure: text in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.local_figures import Figures

Series = Mapping[str, Mapping[int, Figures]]
"""Contender → callers → figures."""

# Told apart by people who see few colours, too (Okabe and Ito's); ours comes first.
_COLOURS = ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#666666")

_WIDTH, _HEIGHT = 1120, 500
_INK, _FAINT = "#222222", "#dddddd"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(figures: Mapping[tuple[str, int], Figures]) -> str:
    """Tokens a second for each contender and number of callers, then everything."""
    labels = list(dict.fromkeys(label for label, _ in figures))
    callers = sorted({number for _, number in figures})
    short = markdown(
        ["tokens/s, at so many callers", *map(str, callers)],
        [[label, *(_rate(figures.get((label, number))) for number in callers)] for label in labels],
    )
    full = markdown(
        [
            "",
            "callers",
            "tokens/s",
            "first token p50, p99",
            "between tokens p50, p99",
            "cores",
            "peak MiB",
            "tokens a piece",
        ],
        [
            [
                label,
                str(number),
                _rate(one),
                f"{_number(one.first_p50)}, {_number(one.first_p99)} ms",
                f"{_number(one.gap_p50)}, {_number(one.gap_p99)} ms",
                _cores(one),
                f"{one.own_peak:,.0f}",
                f"{one.tokens_per_piece:.2f}",
            ]
            for number in callers
            for label in labels
            if (one := figures.get((label, number)))
        ],
    )
    return f"{short}\n{full}"


def page(about: Mapping[str, str], table: str, notes: Sequence[str]) -> str:
    """What was measured, the table, and what else is to be known of it."""
    lines = [f"- {name}: {text}" for name, text in about.items()]
    notes = [f"- {note}" for note in notes]
    return "\n".join([*lines, "", table, *notes]).rstrip() + "\n"


def _rate(figures: Figures | None) -> str:
    return f"{figures.tokens_per_second:,.0f}" if figures else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _cores(figures: Figures) -> str:
    own = {part: cores for part, cores in figures.cores.items() if part != "load"}
    if len(own) == 1:
        return f"{figures.own_cores:.2f}"
    return " + ".join(f"{part} {cores:.2f}" for part, cores in own.items())


class _Panel(NamedTuple):
    """A diagram: where it is, what it shows, how it is divided."""

    left: float
    right: float
    top: float
    bottom: float
    callers: Sequence[int]
    ticks: Sequence[float]
    logarithmic: bool

    def x(self, callers: int) -> float:
        """Callers are spaced by their logarithm."""
        low, high = math.log(self.callers[0]), math.log(self.callers[-1])
        share = (math.log(callers) - low) / (high - low) if high > low else 0.5
        return self.left + 20 + share * (self.right - self.left - 40)

    def y(self, value: float) -> float:
        """From the lowest tick to the highest."""
        scale = math.log if self.logarithmic else float
        low, high = scale(self.ticks[0]), scale(self.ticks[-1])
        share = (scale(max(value, self.ticks[0])) - low) / (high - low)
        return self.bottom - share * (self.bottom - self.top)


def draw(series: Series, title: str) -> str:
    """Tokens a second, and time to the first token, over the number of callers."""
    callers = sorted({number for points in series.values() for number in points})
    rates = [one.tokens_per_second for points in series.values() for one in points.values()]
    waits = [
        wait
        for points in series.values()
        for one in points.values()
        for wait in (one.first_p50, one.first_p99)
        if wait > 0
    ]
    top, bottom = 118, _HEIGHT - 62
    half = _WIDTH / 2
    left = _Panel(78, half - 24, top, bottom, callers, linear_ticks(max(rates)), False)
    right = _Panel(
        half + 78, _WIDTH - 24, top, bottom, callers, decades(min(waits), max(waits)), True
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(24, 28, f"Local engines: {title}", size=16, bold=True),
        *_legend(series),
        *_frame(left, "tokens per second", lambda tick: f"{tick:,.0f}"),
        *_frame(right, "time to the first token: median, and p99 (dashed)", _duration),
    ]
    # Ours last, so that it lies on top.
    for index, (_, points) in reversed(list(enumerate(series.items()))):
        colour = _COLOURS[index % len(_COLOURS)]
        width = 3.5 if index == 0 else 2
        numbers = sorted(points)
        rate = [(left.x(n), left.y(points[n].tokens_per_second)) for n in numbers]
        p50 = [(right.x(n), right.y(points[n].first_p50)) for n in numbers]
        p99 = [(right.x(n), right.y(points[n].first_p99)) for n in numbers]
        parts += [
            *_line(rate, colour, width),
            *_line(p99, colour, width / 2, dashed=True),
            *_line(p50, colour, width),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def linear_ticks(highest: float) -> list[float]:
    """From 0 to above the highest value, in four to eight round steps."""
    step = 10 ** math.floor(math.log10(max(highest, 1e-9)))
    for factor in (0.2, 0.25, 0.5, 1, 2):
        if math.ceil(highest / (step * factor)) <= 7:
            step *= factor
            break
    return [number * step for number in range(math.ceil(highest / step) + 1)]


def decades(lowest: float, highest: float) -> list[float]:
    """Powers of ten around all values."""
    first = math.floor(math.log10(lowest))
    last = max(math.ceil(math.log10(highest)), first + 1)
    return [10.0**power for power in range(first, last + 1)]


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:g} s"
    return f"{milliseconds:g} ms"


def _frame(panel: _Panel, title: str, label: object) -> Iterator[str]:
    assert callable(label)
    yield _text(panel.left - 54, panel.top - 18, title, bold=True)
    for tick in panel.ticks:
        y = panel.y(tick)
        yield _rule(panel.left, y, panel.right, y, _FAINT)
        yield _text(panel.left - 8, y + 4.5, label(tick), anchor="end")
    yield _rule(panel.left, panel.bottom, panel.right, panel.bottom, _INK)
    for number in panel.callers:
        x = panel.x(number)
        yield _rule(x, panel.bottom, x, panel.bottom + 5, _INK)
        yield _text(x, panel.bottom + 21, str(number), anchor="middle")
    middle = (panel.left + panel.right) / 2
    yield _text(middle, panel.bottom + 43, "callers at a time", anchor="middle")


def _legend(series: Series) -> Iterator[str]:
    """Two lines of names, each with a piece of its line."""
    x, y = 24.0, 52.0
    for index, label in enumerate(series):
        width = 38 + (8.5 if index == 0 else 6.9) * len(label) + 20
        if x + width > _WIDTH and x > 24:
            x, y = 24.0, y + 20
        colour = _COLOURS[index % len(_COLOURS)]
        yield _rule(x, y - 4.5, x + 30, y - 4.5, colour, 3.5 if index == 0 else 2)
        yield _text(x + 38, y, label, bold=index == 0)
        x += width


def _line(
    points: Sequence[tuple[float, float]], colour: str, width: float, dashed: bool = False
) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    yield (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
        f' stroke-linejoin="round"{dash}/>'
    )
    if not dashed:
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 1:.1f}" fill="{colour}"/>'


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        f' stroke="{colour}" stroke-width="{width}"/>'
    )


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 0, bold: bool = False
) -> str:
    more = (f' font-size="{size}"' if size else "") + (' font-weight="bold"' if bold else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
