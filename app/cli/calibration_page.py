"""Write a calibration report as one page: no script, nothing loaded from anywhere, light and dark."""

import math
from html import escape
from typing import Any, Final

from app.cli.calibration_view import FIGURES, figure_text, subject

Json = dict[str, Any]

SIDE: Final = 400
"""Pixels from 0 to 100 % on either axis of the diagram."""
MARGIN: Final = 44
STRIP: Final = 60
"""Pixels for the bars that count forecasts, below the diagram."""
LARGEST_DOT: Final = 11.0
ALTERNATIVE: Final = "Reliability diagram: observed win rate against stated probability"

STYLE: Final = """\
:root { color-scheme: light dark; --text: #1c2024; --page: #fdfdfc; --line: #c9ced6; --faint: #6b7280;
  --good: #18794e; --bad: #b42318; --data: #2f6fde; --band: #2f6fde33; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --page: #16181b; --line: #3d434b; --faint: #9aa3af;
  --good: #4cc38a; --bad: #ff8a7a; --data: #7ab0ff; --band: #7ab0ff33; } }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { border-bottom: 1px solid var(--line); padding: .2rem .8rem .2rem 0;
  text-align: right; font-variant-numeric: tabular-nums; } th:first-child, td:first-child { text-align: left; }
td:first-child { overflow-wrap: anywhere; } figure { margin: 0; overflow-x: auto; } figcaption { color: var(--faint); }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; } .frame, .grid, .ideal { stroke: var(--line); }
.frame { fill: none; } .ideal { stroke-dasharray: 4 4; } .band { fill: var(--band); } .bar { fill: var(--faint); }
.curve { fill: none; stroke: var(--data); stroke-width: 1.5; } .dot { fill: var(--data); }
.dot.off { fill: var(--bad); } .calibrated { color: var(--good); } .miscalibrated { color: var(--bad); }
"""


def calibration_page(report: Json) -> str:
    """Write the page."""
    verdict = report["verdict"]
    groups = "" if report["groups"] is None else _groups(report)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Calibration: {escape(verdict)}</title>
<style>
{STYLE}</style>
</head>
<body>
<h1>Calibration: <span class="{escape(verdict)}">{escape(verdict)}</span></h1>
<p>{escape(subject(report))}</p>
{_list(report["reasons"])}
<h2>What to do</h2>
{_list(report["recommendations"])}
<h2>Reliability</h2>
<figure>
{_diagram(report)}
<figcaption>Dots: what came of the forecasts of each tenth, red where they lie outside what 95 % of calibrated records
would show (bands). Line: the rising curve that fits best. Dashes: perfect calibration. Bars: how many forecasts.
</figcaption>
</figure>
<h2>Outcomes</h2>
{_table(("Resolved", "Pending", "Win", "Loss", "Scratch", "Timeout"), [_outcomes(report)])}
<h2>Figures</h2>
{_table(("Figure", "Value"), [(label.strip(), figure_text(report[name])) for name, label in FIGURES])}
<h2>Stated conviction</h2>
{_table(("Conviction", "n", "Win rate", "Mean"), [_conviction(bucket) for bucket in report["conviction_buckets"]])}
{groups}</body>
</html>
"""


def _list(sentences: list[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences) + "</ul>"


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _outcomes(report: Json) -> tuple[str, ...]:
    counts = report["counts"]
    return tuple(str(counts[name]) for name in ("resolved", "pending", "win", "loss", "scratch", "timeout"))


def _conviction(bucket: Json) -> tuple[str, ...]:
    return (
        f"{bucket['lower']} to {bucket['upper']}",
        str(bucket["n"]),
        figure_text(bucket["win_rate"]),
        figure_text(bucket["mean_forecast"]),
    )


def _groups(report: Json) -> str:
    names = ("brier", "calibration_error", "slope", "win_rate", "predicted_win_rate", "e_value", "verdict")
    rows = [
        (group["key"], str(group["counts"]["resolved"]), *(figure_text(group[name]) for name in names))
        for group in report["groups"]
    ]
    headings = ("Resolved", "Brier", "Error", "Slope", "Win rate", "Predicted", "E-value", "Verdict")
    left_out = report["groups_left_out"]
    more = f"<p>{left_out} smaller groups are left out.</p>\n" if left_out else ""
    by = report["group_by"]
    return f"<h2>By {escape(by)}</h2>\n{_table((by.capitalize(), *headings), rows)}\n{more}"


def _diagram(report: Json) -> str:
    told = [found for found in report["bins"] if found["n"]]
    width, height = SIDE + 2 * MARGIN, SIDE + STRIP + 2 * MARGIN
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{ALTERNATIVE}">',
        *_axes(),
        *(_band(found) for found in told),
        _curve(report["isotonic"]),
        *_dots(told),
        *_bars(told),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _x(fraction: float) -> float:
    return round(MARGIN + SIDE * fraction, 2)


def _y(fraction: float) -> float:
    return round(MARGIN / 2 + SIDE * (1 - fraction), 2)


def _axes() -> list[str]:
    lines = [f'<rect class="frame" x="{_x(0)}" y="{_y(1)}" width="{SIDE}" height="{SIDE}"/>']
    for step in range(0, 11, 2):
        at = step / 10
        lines += [
            f'<line class="grid" x1="{_x(at)}" y1="{_y(0)}" x2="{_x(at)}" y2="{_y(0) + 4}"/>',
            f'<line class="grid" x1="{_x(0) - 4}" y1="{_y(at)}" x2="{_x(0)}" y2="{_y(at)}"/>',
            f'<text x="{_x(at)}" y="{_y(0) + 18}" text-anchor="middle">{step * 10}</text>',
            f'<text x="{_x(0) - 8}" y="{_y(at) + 4}" text-anchor="end">{step * 10}</text>',
        ]
    return [
        *lines,
        f'<line class="ideal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>',
        f'<text x="{_x(0.5)}" y="{_y(0) + 34}" text-anchor="middle">stated probability, %</text>',
        f'<text x="{_x(0) + 8}" y="{_y(1) + 16}">won, %</text>',
    ]


def _band(found: Json) -> str:
    low, high = found["consistency_low"], found["consistency_high"]
    x = _x(found["mean_forecast"]) - 6
    return f'<rect class="band" x="{x:.2f}" y="{_y(high)}" width="12" height="{SIDE * (high - low):.2f}"/>'


def _curve(points: list[Json]) -> str:
    if len(points) < 2:
        return ""
    places = " ".join(f"{_x(point['p'])},{_y(point['observed'])}" for point in points)
    return f'<polyline class="curve" points="{places}"/>'


def _dots(told: list[Json]) -> list[str]:
    most = max((found["n"] for found in told), default=1)
    return [
        f'<circle class="{_dot_class(found)}" cx="{_x(found["mean_forecast"])}" cy="{_y(found["observed"])}" '
        f'r="{max(2.5, LARGEST_DOT * math.sqrt(found["n"] / most)):.2f}">'
        f"<title>{found['lower']:.0%} to {found['upper']:.0%}: {found['n']} forecasts of {found['mean_forecast']:.1%} "
        f"on average, {found['observed']:.1%} won</title></circle>"
        for found in told
    ]


def _dot_class(found: Json) -> str:
    return "dot" if found["consistency_low"] <= found["observed"] <= found["consistency_high"] else "dot off"


def _bars(told: list[Json]) -> list[str]:
    most = max((found["n"] for found in told), default=1)
    foot = _y(0) + MARGIN + STRIP
    return [
        f'<rect class="bar" x="{_x(found["lower"]) + 2}" y="{foot - STRIP * found["n"] / most:.2f}" '
        f'width="{SIDE / 10 - 4}" height="{STRIP * found["n"] / most:.2f}"/>'
        for found in told
    ]
