"""Numbers as people read them: never a p of 0, never more digits than there are."""

import pytest

from optevolve.number_text import duration, interval, number, p_text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "< 0.0001"),
        (1e-300, "< 0.0001"),
        (9.99e-5, "< 0.0001"),
        (1e-4, "0.0001"),
        (0.0004, "0.0004"),
        (0.0213, "0.021"),
        (0.5, "0.50"),
        (1.0, "1.00"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_p_values(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_p_values_with_their_name() -> None:
    assert p_text(1e-9, "p") == "p < 0.0001"
    assert p_text(0.02, "p") == "p = 0.020"


def test_numbers_intervals_and_durations() -> None:
    assert [number(x) for x in (None, 0.12345, -3, float("nan"), float("-inf"))] == ["–", "0.1235", "-3", "not a number", "-infinite"]
    assert interval((-0.00008, 0.0368), 3) == "-0.0001 to 0.0368"
    assert interval((0.0, 0.0)) == "0 to 0"
    assert interval((1.2e-7, 3.4e-7)) == "1.2e-07 to 3.4e-07"
    assert interval(None) == "–"
    assert [duration(s) for s in (1.23, 90, 300, 9000, 400_000)] == ["1.2 s", "90 s", "5.0 min", "2.5 h", "4.6 days"]
