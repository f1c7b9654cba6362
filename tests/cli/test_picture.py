"""Curves drawn with characters."""

import numpy as np

from optevolve.cli.picture import curve


def test_a_rising_line_fills_from_the_bottom() -> None:
    assert curve(np.linspace(0, 1, 9), height=1) == [" ▁▂▃▄▅▆▇█  1  0"]
    top, bottom = curve([0.0, 0.5, 1.0], height=2)
    assert (top, bottom) == ("  █  1", " ██  0")


def test_many_steps_fit_into_the_width() -> None:
    lines = curve(np.cos(np.linspace(0, 3, 1000)), width=40, height=3)
    assert len(lines) == 3
    assert all(len(line.split("  ")[0]) <= 40 for line in lines)


def test_negative_and_infinite_values() -> None:
    assert curve([-1.0, 0.0], height=1) == [" █  0  -1"]
    assert curve([np.inf, 1.0], height=1) == [" █  1  0"]
    assert curve([np.nan]) == ["(not finite)"]
