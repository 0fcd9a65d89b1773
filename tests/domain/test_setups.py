"""Tests of what setups are compared by."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.proposal import Setup
from app.domain.setups import SetupSums, compare_setups
from app.domain.tally import ClassCounts

SETUPS = list(Setup)


def sums(
    setup: Setup = Setup.MOMENTUM, *, win: int = 0, loss: int = 0, scratch: int = 0, timeout: int = 0, percents: int = 0
) -> SetupSums:
    """Wins bring 2 R, losses cost 1 R, scratches 0.05 R and time stops bring 0.5 R."""
    results = [Decimal(2)] * win + [Decimal(-1)] * loss + [Decimal("-0.05")] * scratch + [Decimal("0.5")] * timeout
    return SetupSums(
        setup=setup,
        counts=ClassCounts(win=win, loss=loss, scratch=scratch, timeout=timeout),
        r_win=Decimal(2 * win),
        r_loss=Decimal(-loss),
        r=sum(results, Decimal(0)),
        r_squares=sum((result * result for result in results), Decimal(0)),
        forecasts=len(results),
        percents=percents,
    )


def test_figures_are_those_of_the_results() -> None:
    [found] = compare_setups([sums(win=3, loss=2, scratch=2, timeout=1, percents=8 * 54)]).setups

    # 3 x 2 - 2 - 2 x 0.05 + 0.5 = 4.4 of 8;  squares 12 + 2 + 0.005 + 0.25 = 14.255
    # variance (14.255 - 4.4^2 / 8) / 7 = 1.690714...
    assert found.win_rate == 3 / 8
    assert found.predicted_win_rate == 0.54
    assert (found.average_win_r, found.average_loss_r) == (2.0, -1.0)
    assert found.expectancy_r == 0.55
    assert found.sharpe_r == pytest.approx(0.55 / 1.690714285714286**0.5, rel=1e-14)


def test_what_cannot_be_computed_is_none() -> None:
    [found] = compare_setups([sums(timeout=1)]).setups

    assert (found.average_win_r, found.average_loss_r, found.sharpe_r) == (None, None, None)
    assert (found.win_rate, found.expectancy_r) == (0.0, 0.5)
    assert compare_setups([sums(win=5)]).setups[0].sharpe_r is None  # all alike


def test_without_a_trade_there_is_nothing_to_compare() -> None:
    assert compare_setups([]).shrinkage is None
    empty = compare_setups([sums()])
    assert empty.shrinkage is None
    assert (empty.setups[0].win_rate, empty.setups[0].shrunk_win_rate) == (None, None)


def test_results_that_hardly_differ_do_not_cancel_out() -> None:
    # A million results of 1 R, and one of 1.000001: the variance is 1e-12 x (1/N - 1/N^2) x N / (N - 1) = 1e-12 / N.
    n, odd = 1_000_001, Decimal("1.000001")
    almost = SetupSums(
        setup=Setup.OTHER,
        counts=ClassCounts(win=n),
        r_win=n - 1 + odd,
        r_loss=Decimal(0),
        r=n - 1 + odd,
        r_squares=n - 1 + odd * odd,
        forecasts=n,
        percents=50 * n,
    )

    [found] = compare_setups([almost]).setups

    assert found.sharpe_r == pytest.approx(1e6 * n**0.5, rel=1e-5)


class TestShrinking:
    def test_follows_kleinmans_estimator(self) -> None:
        # Wins 30 of 40, 10 of 40, 4 of 20: m = 0.44, m (1 - m) = 0.2464, N = 100, k - 1 = 2
        # S = 40 x 0.31^2 + 40 x 0.19^2 + 20 x 0.24^2 = 3.844 + 1.444 + 1.152 = 6.44;  sum n^2 / N = 36
        # g = (6.44 - 0.4928) / (0.2464 x (64 - 2)) = 5.9472 / 15.2768;  s = (1 - g) / g = 9.3296 / 5.9472
        found = compare_setups(
            [sums(SETUPS[0], win=30, loss=10), sums(SETUPS[1], win=10, loss=30), sums(SETUPS[2], win=4, loss=16)]
        )
        prior = 9.3296 / 5.9472

        assert found.shrinkage is not None
        assert found.shrinkage.win_rate == 0.44
        assert found.shrinkage.prior_trades == pytest.approx(prior, rel=1e-14)
        for figures, (wins, n) in zip(found.setups, [(30, 40), (10, 40), (4, 20)], strict=True):
            assert figures.shrunk_win_rate == pytest.approx((wins + prior * 0.44) / (n + prior), rel=1e-14)

    def test_goes_all_the_way_where_setups_differ_by_no_more_than_chance(self) -> None:
        found = compare_setups([sums(SETUPS[0], win=6, loss=4), sums(SETUPS[1], win=5, loss=5)])

        assert found.shrinkage is not None
        assert found.shrinkage.prior_trades is None
        assert [figures.shrunk_win_rate for figures in found.setups] == [0.55, 0.55]

    def test_does_nothing_where_setups_could_not_differ_more(self) -> None:
        found = compare_setups([sums(SETUPS[0], win=10), sums(SETUPS[1], loss=10)])

        # S = 10 x 0.25 x 2 = 5, g = (5 - 0.25) / (0.25 x (20 - 10 - 1)) > 1
        assert found.shrinkage is not None
        assert found.shrinkage.prior_trades == 0
        assert [figures.shrunk_win_rate for figures in found.setups] == [1.0, 0.0]

    @pytest.mark.parametrize(("win", "loss", "rate"), [(5, 0, 1.0), (0, 5, 0.0), (2, 3, 0.4)])
    def test_of_one_setup_alone_leaves_it_where_it_is(self, win: int, loss: int, rate: float) -> None:
        found = compare_setups([sums(win=win, loss=loss)])

        assert found.setups[0].shrunk_win_rate == rate

    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=len(SETUPS)))
    def test_moves_every_rate_towards_that_of_all_and_never_past_it(self, records: list[tuple[int, int]]) -> None:
        found = compare_setups(
            [sums(setup, win=win, loss=loss) for setup, (win, loss) in zip(SETUPS, records, strict=False)]
        )

        trades = sum(map(sum, records))
        for figures, (win, loss) in zip(found.setups, records, strict=True):
            if not trades:
                assert figures.shrunk_win_rate is None
                continue
            overall = float(Fraction(sum(win for win, _ in records), trades))
            own = overall if win + loss == 0 else win / (win + loss)
            assert figures.shrunk_win_rate is not None or win + loss == 0
            if figures.shrunk_win_rate is not None:
                low, high = sorted((own, overall))
                assert low - 1e-12 <= figures.shrunk_win_rate <= high + 1e-12
