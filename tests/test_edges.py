"""A learning rate at the end of the grid says so, wherever it is shown."""

import pytest

from optevolve.cli import runs
from optevolve.config import Protocol
from optevolve.final import choices, compare
from tests import finals


@pytest.mark.parametrize(
    ("rate", "ends"), [(10.0, True), (30.0, True), (1e-5, True), (3e-6, True), (1.0, False), (3.0, False), (1e-4, False), (None, False)]
)
def test_the_ends_of_the_grid(rate: float | None, ends: bool) -> None:
    assert Protocol().ends_at(rate) is ends
    assert not Protocol(learning_rates=(0.1,)).ends_at(0.1)  # nothing was chosen


@pytest.mark.parametrize(("grid", "edge"), [((0.1, 0.01), True), ((1.0, 0.1, 0.01), False)])
def test_tables_mark_it_and_say_what_the_mark_means(
    grid: tuple[float, ...], edge: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finals, "PROTOCOL", Protocol(learning_rates=grid))
    measurements = finals.final({"adamw": [0.1, 0.2], "sgd": [0.2, 0.3]}, valid={"adamw": [0.1, 0.2], "sgd": [0.2, 0.3]})
    rows = compare(measurements)
    assert [row.edge for row in rows] == [edge, edge]
    assert [choice.edge for choice in choices(measurements).values()] == [edge, edge]
    runs.print_comparisons(rows)
    text = capsys.readouterr().out
    assert ("0.1*" in text) is edge
    assert ("at the end of the learning rates that were tried" in text) is edge


@pytest.mark.parametrize(("grid", "top"), [((0.0, 0.01), True), ((0.0, 0.01, 0.1), False)])
def test_the_largest_weight_decay_is_marked_too(
    grid: tuple[float, ...], top: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finals, "PROTOCOL", Protocol(weight_decays=grid))
    rows = compare(finals.final({"adamw": [0.1, 0.2]}, valid={"adamw": [0.1, 0.2]}))
    assert [row.decay_edge for row in rows] == [top]
    runs.print_comparisons(rows)
    text = capsys.readouterr().out
    assert ("0.01+" in text) is top
    assert ("the largest weight decay that was tried" in text) is top
