"""Write the Grafana dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/tradeverdict.json`.

Rows of panels are declared below; where each stands follows from their order. Standard library only.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = 24
"""Grafana's grid."""
DATASOURCE: Final = {"type": "prometheus", "uid": "prometheus"}

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Ask Prometheus one expression; `legend` names each series by its labels."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Show queries over time, or with `now` their present values; `limits` are where the colour changes."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    now: bool = False
    stacked: bool = False
    minimum: float | None = 0
    limits: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Put panels side by side under a heading."""

    title: str
    height: int
    panels: Sequence[Panel]


def _one(expr: str, legend: str) -> tuple[Query]:
    return (Query(expr=expr, legend=legend),)


def _quantiles(histogram: str, by: str = "") -> tuple[Query, ...]:
    """Ask the median, P95 and P99 of a histogram of seconds, over all replicas."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            expr=f"histogram_quantile({share}, sum by ({labels}) (rate(tradeverdict_{histogram}_bucket[5m])))",
            legend=f"{legend}{name}",
        )
        for share, name in ((0.5, "median"), (0.95, "P95"), (0.99, "P99"))
    )


def _calibration(gauge: str) -> tuple[Query]:
    return _one(f"max by (decider, window) (tradeverdict_{gauge})", "{{decider}} {{window}}")


ROWS: Final = (
    Row(
        title="Now",
        height=4,
        panels=(
            Panel(
                title="Replicas",
                about="How many replicas Prometheus can scrape; docker-compose.yml asks for two.",
                queries=_one("tradeverdict:replicas_up:count", "up"),
                now=True,
                limits=((0, RED), (1, YELLOW), (2, GREEN)),
            ),
            Panel(
                title="Database",
                about="1 while every replica reaches PostgreSQL.",
                queries=_one("tradeverdict:store_up:min", "up"),
                now=True,
                limits=((0, RED), (1, GREEN)),
            ),
            Panel(
                title="Halts in force",
                about="Of one account or of all, by state.",
                queries=_one("tradeverdict:halts:max", "{{state}}"),
                now=True,
                limits=((0, GREEN), (1, RED)),
            ),
            Panel(
                title="P95 of decisions",
                about="Over 5 minutes; the deadline is 1.5 s.",
                queries=_one("tradeverdict:decision_seconds:p95_5m", "P95"),
                unit="s",
                now=True,
                limits=((0, GREEN), (1.2, YELLOW), (1.5, RED)),
            ),
            Panel(
                title="Model failures",
                about="Share of the decisions of 5 minutes whose model gave no usable proposal.",
                queries=_one("tradeverdict:model_failures:ratio_rate5m", "failed"),
                unit="percentunit",
                now=True,
                limits=((0, GREEN), (0.02, YELLOW), (0.1, RED)),
            ),
            Panel(
                title="Budget spent today",
                about="Of the key that spent most; empty without MODEL_BUDGET_USD_PER_DAY.",
                queries=_one("tradeverdict:model_budget_spent:ratio", "spent"),
                unit="percentunit",
                now=True,
                limits=((0, GREEN), (0.5, YELLOW), (0.8, RED)),
            ),
        ),
    ),
    Row(
        title="Decisions",
        height=8,
        panels=(
            Panel(
                title="Decisions per minute by verdict",
                about="Recorded decisions of all replicas.",
                queries=_one("60 * sum by (verdict) (rate(tradeverdict_decisions_total[5m]))", "{{verdict}}"),
                stacked=True,
            ),
            Panel(
                title="Blocks per hour by gate",
                about="Of the reported candidate; docs/gates.md explains each code.",
                queries=_one(
                    "topk(10, sum by (gate, code) (increase(tradeverdict_gate_blocks_total[1h])))", "{{gate}} {{code}}"
                ),
                stacked=True,
            ),
            Panel(
                title="Time of a whole decision",
                about="From the request to the recorded answer.",
                queries=_quantiles("decision_seconds"),
                unit="s",
                limits=((0, GREEN), (1.5, RED)),
            ),
        ),
    ),
    Row(
        title="Model",
        height=8,
        panels=(
            Panel(
                title="Calls per minute by target and outcome",
                about="`proposal` is what we want; `cancelled` lost a race; the rest failed.",
                queries=_one(
                    "60 * sum by (target, outcome) (rate(tradeverdict_model_calls_total[5m]))",
                    "{{target}} {{outcome}}",
                ),
                stacked=True,
            ),
            Panel(
                title="Time of a call",
                about="Of each target, whatever its outcome.",
                queries=_quantiles("model_call_seconds", by="target"),
                unit="s",
            ),
            Panel(
                title="Failures per minute by code",
                about="Decisions without a usable proposal of the model asked first.",
                queries=_one("60 * sum by (code) (rate(tradeverdict_model_failures_total[5m]))", "{{code}}"),
                stacked=True,
            ),
            Panel(
                title="Targets left alone",
                about="1 where the breaker of at least one replica is not closed.",
                queries=_one("tradeverdict:target_not_closed:max", "{{target}}"),
                limits=((0, GREEN), (1, RED)),
            ),
        ),
    ),
    Row(
        title="Cost",
        height=8,
        panels=(
            Panel(
                title="Dollars today",
                about="All calls since midnight UTC, the key that spent most, and the budget of one key (0: none).",
                queries=(
                    Query(expr="max(tradeverdict_cost_today_usd)", legend="all keys"),
                    Query(expr="max(tradeverdict_dearest_key_cost_today_usd)", legend="dearest key"),
                    Query(expr="max(tradeverdict_model_budget_usd)", legend="budget of a key"),
                ),
                unit="currencyUSD",
            ),
            Panel(
                title="Dollars per hour by target",
                about="At the prices known of each model.",
                queries=_one("sum by (target) (increase(tradeverdict_target_cost_usd_total[1h]))", "{{target}}"),
                unit="currencyUSD",
                stacked=True,
            ),
            Panel(
                title="Dollars per decision by decider",
                about="Mean of an hour.",
                queries=_one(
                    "sum by (decider) (rate(tradeverdict_model_cost_usd_total[1h]))"
                    " / sum by (decider) (rate(tradeverdict_model_seconds_count[1h]))",
                    "{{decider}}",
                ),
                unit="currencyUSD",
            ),
            Panel(
                title="Tokens per minute by kind",
                about="Cache reads cost a tenth of input.",
                queries=_one("60 * sum by (kind) (rate(tradeverdict_model_tokens_total[5m]))", "{{kind}}"),
                stacked=True,
            ),
        ),
    ),
    Row(
        title="Calibration",
        height=8,
        panels=(
            Panel(
                title="Brier score",
                about="Mean squared error of p_win by window: lower is better, 0.25 is a coin.",
                queries=_calibration("brier_score"),
            ),
            Panel(
                title="Slope",
                about="1 is calibrated; below 1 the probabilities are too extreme.",
                queries=_calibration("calibration_slope"),
                minimum=None,
            ),
            Panel(
                title="Mean p_win less win rate",
                about="Above 0 the decider is overconfident.",
                queries=_calibration("calibration_error"),
                unit="percentunit",
                minimum=None,
            ),
            Panel(
                title="Evidence against calibration",
                about="The e-value: 20 or more rejects.",
                queries=_calibration("calibration_e_value"),
                limits=((0, GREEN), (20, RED)),
            ),
            Panel(
                title="Rejected and derated",
                about="1 where the longest window rejects p_win, and where sizes are kept to the lowest for it.",
                queries=(
                    Query(expr="tradeverdict:calibration_rejected:max", legend="{{decider}} rejected"),
                    Query(expr="max by (decider) (tradeverdict_calibration_derated)", legend="{{decider}} derated"),
                ),
                limits=((0, GREEN), (1, RED)),
            ),
            Panel(
                title="Resolved and pending decisions",
                about="Decisions whose outcome is known, and those whose is not yet.",
                queries=(
                    Query(
                        expr="max by (decider, window) (tradeverdict_resolved_decisions)",
                        legend="{{decider}} {{window}} resolved",
                    ),
                    Query(
                        expr="max by (decider, window) (tradeverdict_pending_decisions)",
                        legend="{{decider}} {{window}} pending",
                    ),
                ),
            ),
        ),
    ),
    Row(
        title="Service",
        height=8,
        panels=(
            Panel(
                title="Alerts",
                about="Pending and firing; docs/operations.md says what each means.",
                queries=_one("sum by (alertname, alertstate) (ALERTS)", "{{alertname}} {{alertstate}}"),
                stacked=True,
            ),
            Panel(
                title="Requests per minute by route and status",
                about="Without the routes that machines ask every few seconds.",
                queries=_one(
                    "60 * sum by (route, status)"
                    ' (rate(tradeverdict_http_requests_total{route!~"/(healthz|readyz|metrics)"}[5m]))',
                    "{{route}} {{status}}",
                ),
                stacked=True,
            ),
            Panel(
                title="Fills without a stop in 15 minutes",
                about="Each put its account in reduce_only.",
                queries=_one("tradeverdict:unprotected_fills:increase15m", "fills"),
                limits=((0, GREEN), (1, RED)),
            ),
            Panel(
                title="Processor by replica",
                about="Cores in use; one process uses at most one and a little.",
                queries=_one('rate(process_cpu_seconds_total{job="tradeverdict"}[5m])', "{{instance}}"),
            ),
            Panel(
                title="Memory by replica",
                about="Resident.",
                queries=_one('process_resident_memory_bytes{job="tradeverdict"}', "{{instance}}"),
                unit="bytes",
            ),
            Panel(
                title="Market open",
                about="1 in New York's trading hours; holidays are not known.",
                queries=_one("tradeverdict:market_open:bool", "open"),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Give the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        panels.append(_heading(row, number=len(panels) + 1, top=top))
        top += 1
        across = min(len(row.panels), 6 if row.panels[0].now else 3)
        for place, panel in enumerate(row.panels):
            line, column = divmod(place, across)
            in_line = min(across, len(row.panels) - line * across)
            width = COLUMNS // in_line
            area = {"h": row.height, "w": width, "x": column * width, "y": top + line * row.height}
            panels.append(_panel(panel, number=len(panels) + 1, area=area))
        top += -(-len(row.panels) // across) * row.height
    return {
        "uid": "tradeverdict",
        "title": "TradeVerdict",
        "tags": ["tradeverdict"],
        "timezone": "utc",
        "editable": False,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": []},
        "panels": panels,
    }


def expressions() -> list[str]:
    """List every expression that the dashboard asks."""
    return [query.expr for row in ROWS for panel in row.panels for query in panel.queries]


def _heading(row: Row, *, number: int, top: int) -> dict[str, Any]:
    area = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": area, "panels": []}


def _panel(panel: Panel, *, number: int, area: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.limits:
        # The first colour holds from below.
        steps = [
            {"value": None if at == 0 else limit, "color": colour} for at, (limit, colour) in enumerate(panel.limits)
        ]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["color"] = {"mode": "thresholds" if panel.now else "palette-classic"}
    if not panel.now:
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "line" if panel.limits else "off"},
        }
    return {
        "id": number,
        "type": "stat" if panel.now else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": area,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": panel.now,
                "range": not panel.now,
            }
            for place, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
        if panel.now
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def text() -> str:
    """Give the dashboard as the file holds it."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
