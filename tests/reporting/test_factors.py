import numpy as np
import pytest

from optevolve.config import Schedule
from optevolve.errors import ParseError
from optevolve.reporting.factors import decays_of, schedule_of
from optevolve.space import decay_values


def test_decays_are_the_largest_parts_that_depend_on_time_alone():
    found = decays_of("nesterov: bessel_i1e(a13 * a2 * g) + 2 * v_hat * max(a6, a10)", 50)
    assert len(found) == 2
    expected = [decay_values("a13 * a2", 50), decay_values("max(a6, a10)", 50)]
    for values in expected:
        assert any(np.array_equal(values, drawn) for drawn in found.values())
    for text, values in found.items():
        np.testing.assert_array_equal(decay_values(text, 50), values)


def test_rules_without_decays_have_none():
    assert decays_of("v_hat / sqrt(s_hat)") == {}
    with pytest.raises(ParseError):
        decays_of("<script>")


def test_schedule_rises_holds_and_falls():
    factor, momentum = schedule_of(Schedule(warmup=10, hold=0.1), 100)
    assert factor[0] == 0
    assert np.all(factor[10:20] == 1)
    assert np.all(np.diff(factor[20:]) < 0)
    assert momentum[0] == momentum[-1] == 0.95
    assert np.all(momentum[10:20] == 0.85)


def test_a_run_shorter_than_its_warmup_sees_its_beginning():
    factor, momentum = schedule_of(Schedule(warmup=800), 200)
    np.testing.assert_allclose(factor, np.arange(200) / 800)
    assert len(momentum) == 200
