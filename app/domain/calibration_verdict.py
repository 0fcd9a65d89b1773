"""Judge whether a record rejects its forecasts, and say in plain words why and what to do.

`miscalibrated` needs both an e-value of at least 20 and a day-clustered |t| beyond 2.58, of the level or of the spread
of the forecasts. A |t| that is looked at every day is sooner or later beyond any fixed limit; the largest of three t
must therefore be beyond one that holds at every look at once, too. The level of the Brier score is no part of it.
Advice is given only where something was rejected: what chance may explain is no reason to change a forecast.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.domain.evidence import (
    anytime_t_limit,
    clustered_boldness,
    clustered_calibration_error,
    clustered_tilt,
    even_days,
    normal_equivalent,
)
from app.domain.tally import Scored

REJECTING_E: Final = 20.0
REJECTING_T: Final = 2.58

LEVEL: Final = "level"
SPREAD: Final = "spread"
BOLDNESS: Final = "distance from 50 %"


class CalibrationVerdict(StrEnum):
    """Say what the record allows to say; `calibrated` is that nothing rejects it."""

    CALIBRATED = "calibrated"
    MISCALIBRATED = "miscalibrated"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True, kw_only=True)
class DayTests:
    """Hold the day-clustered t of the level, of the spread and of the boldness, and of how many days they are.

    A t is None where it cannot be computed; `days` is 0 when they are not known. `even_days` is as how many days of
    one size they count: fewer where some hold many decisions and others few.
    """

    days: int
    even_days: float
    level_t: float | None
    spread_t: float | None
    boldness_t: float | None

    @property
    def level_is_off(self) -> bool:
        return _is_off(self.level_t)

    @property
    def spread_is_off(self) -> bool:
        return _is_off(self.spread_t)

    @property
    def signs(self) -> dict[str, float]:
        """Return each t that is known by the name of what it is a sign of."""
        named = {LEVEL: self.level_t, SPREAD: self.spread_t, BOLDNESS: self.boldness_t}
        return {sign: t for sign, t in named.items() if t is not None}

    @property
    def strongest(self) -> float | None:
        """Return the largest |t| in normal terms, days counting as even ones. None below two days."""
        if not self.signs or self.even_days <= 1:
            return None
        return normal_equivalent(max(map(abs, self.signs.values())), degrees=self.even_days - 1)

    @property
    def asked(self) -> float | None:
        """Return what the largest must be beyond, since it may be looked at every day. None below two days."""
        return anytime_t_limit(self.days) if self.days > 1 else None

    @property
    def reject(self) -> bool:
        return (
            (self.level_is_off or self.spread_is_off)
            and self.strongest is not None
            and self.asked is not None
            and self.strongest > self.asked
        )


def day_tests(scored: Scored) -> DayTests:
    """Test level, spread and boldness with days as clusters."""
    level, spread, bold = (of(scored) for of in (clustered_calibration_error, clustered_tilt, clustered_boldness))
    return DayTests(
        days=len(scored.days or ()),
        even_days=even_days(scored),
        level_t=None if level is None else level.t,
        spread_t=None if spread is None else spread.t,
        boldness_t=None if bold is None else bold.t,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Hold the figures that a verdict and its words rest on.

    `calibration_error` is mean forecast less mean outcome. `certain` counts forecasts of 0 or 100 %.
    """

    n: int
    min_decisions: int
    e_value: float | None
    calibration_error: float | None
    slope: float | None
    by_day: DayTests
    skill: float | None
    certain: int

    @property
    def e_value_rejects(self) -> bool:
        return self.e_value is not None and self.e_value >= REJECTING_E

    @property
    def rejected(self) -> bool:
        """Tell whether there is enough to judge, and both tests reject."""
        return self.n >= self.min_decisions and is_rejected(e_value=self.e_value, by_day=self.by_day)

    @property
    def in_doubt(self) -> bool:
        """Tell whether both tests reject at this look, the t by the limit that holds for one look only.

        Whatever is rejected is in doubt; what was rejected has recovered when it is in doubt no more.
        """
        return (
            self.n >= self.min_decisions
            and self.e_value_rejects
            and (self.by_day.level_is_off or self.by_day.spread_is_off)
        )

    @property
    def verdict(self) -> CalibrationVerdict:
        if self.n < self.min_decisions:
            return CalibrationVerdict.INSUFFICIENT
        return CalibrationVerdict.MISCALIBRATED if self.rejected else CalibrationVerdict.CALIBRATED


def is_rejected(*, e_value: float | None, by_day: DayTests) -> bool:
    """Tell whether both reject: the e-value, and the day-clustered tests."""
    return e_value is not None and e_value >= REJECTING_E and by_day.reject


def _is_off(t: float | None) -> bool:
    return t is not None and abs(t) > REJECTING_T


def reasons(findings: Findings) -> tuple[str, ...]:
    """Say why the verdict is what it is."""
    return (_ground(findings), *_level(findings), *_spread(findings))


def recommendations(findings: Findings) -> tuple[str, ...]:
    """Say what to do about it."""
    advice: list[str] = []
    match findings.verdict:
        case CalibrationVerdict.INSUFFICIENT:
            missing = findings.min_decisions - findings.n
            advice = [f"Wait for {missing} more resolved {_decisions(missing)} before drawing conclusions."]
        case CalibrationVerdict.MISCALIBRATED:
            advice = [*_mend_level(findings), *_mend_spread(findings), "Trade smaller until the record recovers."]
        case CalibrationVerdict.CALIBRATED:
            advice = [_leave_alone(findings)]
    if findings.certain:
        advice.append("Never state 0 or 100 %: one such forecast that fails cannot be made good.")
    if findings.skill is not None and findings.skill <= 0 and findings.verdict is not CalibrationVerdict.INSUFFICIENT:
        advice.append("Look for what sets winners apart: always stating the win rate would have scored as well.")
    return tuple(advice)


def _ground(findings: Findings) -> str:
    n = f"{findings.n} resolved {_decisions(findings.n)}"
    match findings.verdict:
        case CalibrationVerdict.INSUFFICIENT:
            return f"{n}: below {findings.min_decisions} nothing is judged."
        case CalibrationVerdict.MISCALIBRATED:
            return (
                f"{n} reject the forecasts: the e-value is {_e(findings)} ({REJECTING_E:g} rejects) and the "
                f"day-clustered t is {_ts(findings.by_day)} (beyond {REJECTING_T:g} rejects, and "
                f"{_anytime(findings.by_day)})."
            )
        case CalibrationVerdict.CALIBRATED:
            return f"{n} do not reject the forecasts, which does not prove them right: {_why_not_rejected(findings)}."


def _leave_alone(findings: Findings) -> str:
    if not findings.e_value_rejects:
        return "Change nothing on account of these figures: chance may explain what is off in them."
    return "Change no forecast yet, but look again as days are added: so far a few bad days may explain what is off."


def _why_not_rejected(findings: Findings) -> str:
    if not findings.e_value_rejects:
        return f"the e-value is {_e(findings)}, below {REJECTING_E:g}"
    if_independent = f"the e-value of {_e(findings)} would reject them if outcomes were independent, but"
    by_day = findings.by_day
    if by_day.level_t is None and by_day.spread_t is None:
        return f"{if_independent} without at least two known days this cannot be told"
    if not by_day.level_is_off and not by_day.spread_is_off:
        return f"{if_independent} the day-clustered t is {_ts(by_day)}, within {REJECTING_T:g}"
    return f"{if_independent} the day-clustered t is {_ts(by_day)}, which may be chance: {_anytime(by_day)}"


def _level(findings: Findings) -> list[str]:
    if findings.calibration_error is None:
        return []
    points = 100 * findings.calibration_error
    if round(abs(points), 1) == 0:
        return ["On average, forecasts are level with outcomes."]
    side = "above" if points > 0 else "below"
    return [f"On average, forecasts are {abs(points):.1f} points {side} outcomes."]


def _spread(findings: Findings) -> list[str]:
    if findings.slope is None:
        return ["All forecasts are alike, so that their spread cannot be judged."] if findings.n else []
    slope = f"{findings.slope:.2f}"
    if slope == "1.00":
        return ["The slope is 1.00: forecasts lie as far apart as outcomes do."]
    if findings.slope < 0:
        return [f"The slope is {slope}: higher forecasts have won less often."]
    if findings.slope < 1:
        return [f"The slope is {slope}, below 1: overconfident, forecasts lie further apart than outcomes do."]
    return [f"The slope is {slope}, above 1: underconfident, outcomes lie further apart than forecasts do."]


def _mend_level(findings: Findings) -> list[str]:
    if not findings.by_day.level_is_off or findings.calibration_error is None:
        return []
    verb = "Lower" if findings.calibration_error > 0 else "Raise"
    return [f"{verb} stated probabilities by about {100 * abs(findings.calibration_error):.0f} points."]


def _mend_spread(findings: Findings) -> list[str]:
    if not findings.by_day.spread_is_off or findings.slope is None:
        return []
    if findings.slope <= 0:
        return ["Do not size by these forecasts: they rank trades the wrong way round, or not at all."]
    worth = f"ten points of difference have been worth about {10 * findings.slope:.0f}"
    if findings.slope < 1:
        return [f"Move forecasts towards their average: {worth}."]
    return [f"Move forecasts away from their average: {worth}."]


def _ts(by_day: DayTests) -> str:
    return " and ".join(f"{_t(t)} for their {sign}" for sign, t in by_day.signs.items() if sign != BOLDNESS)


def _anytime(by_day: DayTests) -> str:
    sign, t = max(by_day.signs.items(), key=lambda named: abs(named[1]))
    # The others were told before.
    told = f" (t {_t(t)})" if sign == BOLDNESS else ""
    uneven = f", which weigh as {by_day.even_days:.1f} of one size," if by_day.days - by_day.even_days >= 0.05 else ""
    return (
        f"the strongest sign, that of their {sign}{told}, on {by_day.days} days{uneven} is worth "
        f"{by_day.strongest:.2f} standard deviations, where {by_day.asked:.2f} must be exceeded when one may look "
        "every day"
    )


def _t(t: float) -> str:
    return f"{t:.2f}" if abs(t) < 1000 else f"{t:.3g}"


def _e(findings: Findings) -> str:
    return "not known" if findings.e_value is None else f"{findings.e_value:.3g}"


def _decisions(n: int) -> str:
    return "decision" if n == 1 else "decisions"
