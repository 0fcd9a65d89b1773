"""Print the median of one pure judge(): a snapshot of five symbols, three candidates, positions and reservations.

.venv/bin/python bench/judge.py [times]
"""

import sys
import time
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.domain.market import resolve_market
from app.domain.recalibration import UNCALIBRATED
from app.domain.verdict import judge
from tests.builders import (
    AS_OF,
    BUCKETS,
    DECISION_ID,
    a_candidate,
    a_policy,
    a_position,
    a_reservation,
    a_snapshot,
    a_state,
    a_symbol,
    a_trade,
    an_account,
)

SYMBOLS = ("ACME", "BOLT", "COGS", "DYNE", "ERGO")


def main() -> None:
    """Judge the same case many times."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000
    market = resolve_market(a_snapshot(*(a_symbol(symbol=name) for name in SYMBOLS)), buckets=BUCKETS)
    account = an_account(positions=(a_position(mark_price="100.00", stop_loss="98.00"),))
    state = a_state(now=AS_OF + timedelta(seconds=1), reservations=(a_reservation(symbol="COGS"),))
    # The first two are blocked (held, and reserved), so that all three are judged to the end.
    proposal = a_trade(*(a_candidate(symbol=name) for name in ("BOLT", "COGS", "ACME")))
    policy = a_policy()
    took_ms: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        judgement = judge(
            decision_id=DECISION_ID,
            outcome=proposal,
            market=market,
            account=account,
            state=state,
            policy=policy,
            decider_serves_live=True,
            calibration=UNCALIBRATED,
        )
        took_ms.append((time.perf_counter() - began) * 1000)
    print(
        f"judge(), five symbols, three candidates: {judgement.verdict.value}; median {median(took_ms):.3f} ms "
        f"(to be 1 or less), p95 {quantiles(took_ms, n=20)[-1]:.3f} ms, of {times:,}"
    )


if __name__ == "__main__":
    main()
