"""Lay a calibration report out for people, from the very document that programs get."""

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

AXIS: Final = 51
"""Characters of the diagram's axis, of which each is two points wide."""
VERDICT_STYLES: Final = {"calibrated": "bold green", "miscalibrated": "bold red", "insufficient": "bold yellow"}
FIGURES: Final = (
    ("brier", "Brier score"),
    ("brier_ci95", "  95 %, by day"),
    ("skill", "Skill over always saying the win rate"),
    ("calibration_error", "Mean forecast less win rate"),
    ("calibration_error_ci_anytime", "  95 %, at any time"),
    ("calibration_error_t", "  t, by day"),
    ("slope", "Slope (below 1: overconfident)"),
    ("slope_t", "  t of slope - 1, by day"),
    ("e_value", "E-value (20 rejects)"),
    ("ece", "ECE"),
    ("smooth_ece", "Smooth ECE"),
    ("log_loss_clipped", "Log loss, clipped"),
    ("auc", "AUC"),
    ("sharpness", "Sharpness"),
    ("effective_n", "Effective sample"),
    ("win_rate", "Win rate"),
    ("predicted_win_rate", "Predicted win rate"),
    ("trade_rate_sessions", "Sessions with a trade"),
    ("parse_rate", "Readable replies"),
    ("liquidity_violations", "Liquidity violations"),
    ("correlation_breaches", "Correlation breaches"),
    ("meets_seed_targets", "Meets the first system's targets"),
)
"""The figures that are shown, by their names in the report; the report holds more."""


def calibration_view(report: Json) -> RenderableType:
    """Show one report: verdict, diagram, figures, and what each group came to."""
    parts: list[RenderableType] = [_head(report), _diagram(report["bins"]), _figures(report), _convictions(report)]
    if report["groups"] is not None:
        parts.append(_groups(report))
    return Group(*parts, _verdict(report))


def figure_text(value: object) -> str:
    """Write a figure; a dash where it cannot be computed."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"{figure_text(value[0])} to {figure_text(value[1])}"
    if isinstance(value, float):
        if abs(value) >= 1_000:
            return f"{value:,.0f}" if abs(value) < 1_000_000_000 else f"{value:.3g}"
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return str(value)


def subject(report: Json) -> str:
    """Say what a report is of."""
    window = report["window"]
    return (
        f"{report['forecast']} of {window['from']} to {window['to']} ({window['days']} days), "
        f"labels {report['source']}, a scratch counts {report['scratch']}"
    )


def _head(report: Json) -> Text:
    counts = report["counts"]
    classes = ", ".join(f"{counts[name]} {name}" for name in ("win", "loss", "scratch", "timeout"))
    return Text(f"{subject(report)}\n{counts['resolved']} resolved ({classes}); {counts['pending']} pending\n")


def _diagram(bins: list[Json]) -> Table:
    """Draw a line for each bin: where calibrated forecasts would fall (─), the forecast (│), what came (●)."""
    table = Table(title="Reliability: ● observed, │ mean forecast, ─ where 95 % of calibrated records lie")
    for heading in ("Forecast", "n", "Mean", "Observed"):
        table.add_column(heading, justify="right")
    table.add_column("0 %" + "100 %".rjust(AXIS - 3), min_width=AXIS, no_wrap=True)
    for found in bins:
        if found["n"]:
            table.add_row(
                f"{found['lower']:.0%} to {found['upper']:.0%}",
                f"{found['n']:,}",
                f"{found['mean_forecast']:.1%}",
                f"{found['observed']:.1%}",
                _axis(found),
            )
    return table


def _axis(found: Json) -> Text:
    line = [" "] * AXIS
    low, high = (_place(found[name]) for name in ("consistency_low", "consistency_high"))
    line[low : high + 1] = "─" * (high + 1 - low)
    line[_place(found["mean_forecast"])] = "│"
    observed = _place(found["observed"])
    line[observed] = "●"
    within = found["consistency_low"] <= found["observed"] <= found["consistency_high"]
    text = Text("".join(line))
    text.stylize("bold green" if within else "bold red", observed, observed + 1)
    return text


def _place(fraction: float) -> int:
    return round(fraction * (AXIS - 1))


def _figures(report: Json) -> Table:
    table = Table(title="Figures", show_header=False)
    for name, label in FIGURES:
        table.add_row(label, figure_text(report[name]))
    ev = report["ev_accuracy"]
    if ev is not None and ev["n"]:
        told = f"{figure_text(ev['predicted_r'])} expected, {figure_text(ev['realized_r'])} came, of {ev['n']:,}"
        table.add_row("R per trade", told)
    return table


def _convictions(report: Json) -> Table:
    table = Table("Conviction", "n", "Win rate", "Mean", title="Stated conviction")
    for bucket in report["conviction_buckets"]:
        table.add_row(
            f"{bucket['lower']} to {bucket['upper']}",
            f"{bucket['n']:,}",
            figure_text(bucket["win_rate"]),
            figure_text(bucket["mean_forecast"]),
        )
    return table


def _groups(report: Json) -> Table:
    headings = ("Resolved", "Brier", "Error", "Slope", "Win rate", "Predicted", "E-value", "Verdict")
    title = f"By {report['group_by']}"
    if report["groups_left_out"]:
        title += f"; {report['groups_left_out']} smaller ones are left out"
    table = Table(report["group_by"].capitalize(), *headings, title=title)
    names = ("brier", "calibration_error", "slope", "win_rate", "predicted_win_rate", "e_value")
    for group in report["groups"]:
        table.add_row(
            Text(group["key"]),
            f"{group['counts']['resolved']:,}",
            *(figure_text(group[name]) for name in names),
            Text(group["verdict"], style=VERDICT_STYLES[group["verdict"]]),
        )
    return table


def _verdict(report: Json) -> Text:
    text = Text("Verdict: ").append(report["verdict"], style=VERDICT_STYLES[report["verdict"]])
    for reason in report["reasons"]:
        text.append(f"\n  {reason}")
    for advice in report["recommendations"]:
        text.append(f"\n  → {advice}")
    return text
