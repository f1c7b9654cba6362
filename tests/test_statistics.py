"""Intervals and tests are the textbook's, for every number of seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from optevolve.statistics import holm, mean_interval, paired_p, rank_correlation, t_quantile

FINITE = st.floats(-1e3, 1e3)


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 1000, 10**6])
def test_the_quantile_is_student_s_for_every_number_of_seeds(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert t_quantile(freedom) > 1.9599
    assert t_quantile(freedom, 0.99) == pytest.approx(stats.t.ppf(0.995, freedom), rel=1e-9)


@given(st.lists(FINITE, min_size=2, max_size=30))
def test_intervals_and_tests_agree_with_scipy(values: list[float]) -> None:
    low, high = mean_interval(values)
    spread = stats.sem(values)
    assert (low, high) == pytest.approx((np.mean(values) - spread * stats.t.ppf(0.975, len(values) - 1),
                                         np.mean(values) + spread * stats.t.ppf(0.975, len(values) - 1)), abs=1e-9)  # fmt: skip
    p = paired_p(values)
    if p is not None:
        assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-6, abs=1e-300)


def test_what_cannot_be_tested_has_no_number() -> None:
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, math.inf]) is None
    assert paired_p([0.1]) is None
    assert paired_p([0.1, 0.1, 0.1]) is None
    assert paired_p([math.nan, 0.1]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # the example of Holm's procedure in textbooks
    assert holm([0.02, None, 0.5]) == pytest.approx([0.04, None, 0.5])
    assert holm([None]) == [None]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_nor_reorders(values: list[float]) -> None:
    corrected = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    assert [q for _, q in sorted(zip(values, corrected, strict=True))] == sorted(corrected)
    if values:
        assert min(corrected) == pytest.approx(min(1.0, len(values) * min(values)))


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-math.inf, 0.0, 0.5, 2.0])), min_size=2, max_size=12))
def test_rank_correlation_is_scipy_s_row_by_row_and_nought_where_nothing_is_ranked(pairs: list[tuple[int, float]]) -> None:
    x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    constant = len(set(x)) == 1 or len(set(y)) == 1
    expected = 0.0 if constant else stats.spearmanr(x, y).statistic
    rows = rank_correlation(np.stack([x, x[::-1]]), np.stack([y, y[::-1]]))
    assert rows == pytest.approx([expected, expected])
