"""Rules compared on tasks: who is tuned and tested how, what goes on where it stopped, what grows, what is refused."""

import json
from pathlib import Path

import pytest

import optevolve
from optevolve.comparison import PROTOCOLS, _contestants, compare, name_of
from optevolve.errors import ConfigError, ParseError, StudyError, TaskError
from optevolve.library import ZOO, zoo
from optevolve.records import Split
from optevolve.run.store import Study
from optevolve.space.simplify import simplify

TINY = ["learning_rates=[1.0, 0.1]", "full_steps=40", "trial_steps=8", "epoch_steps=20", "full_seeds=1", "weight_decays=[0.0, 0.1]"]
TEXT = "Mom ~ g"  # the paper's notation


def small(out: Path, rules: object = ("adam", "momentum: g"), **more: object) -> list[optevolve.comparison.Comparison]:
    options = {"tasks": ["mlp-moons"], "settings": TINY, "seeds": 2, "workers": 1} | more
    return compare(rules, out=out, **options)  # type: ignore[arg-type]


def test_rules_are_tuned_alike_tested_in_pairs_and_the_folder_grows(tmp_path: Path) -> None:
    first = small(tmp_path, seeds=1)
    assert {row.name for row in first} == {"adam", name_of("momentum: g")}
    assert all(len(row.scores) == 1 and row.p_value is None for row in first)
    rows = {row.name: row for row in small(tmp_path, ["adam", TEXT, "sgd"])}
    with Study.open(tmp_path / "study.db", read_only=True) as study:
        measured = study.measurements()
    assert set(rows) == {"adam", name_of(TEXT), "sgd"}
    assert name_of(TEXT) == name_of("momentum: g")  # one rule in two notations
    tuned = {m.job.rule: m for m in measured if m.stage == "tune"}
    runs = [m for m in measured if m.stage == "evaluate"]
    assert len(tuned) == 3
    assert len(runs) == 6
    for m in tuned.values():
        trials = [curve for curve in m.outcome.curves if curve.purpose == "trial"]
        assert m.job.split is Split.VALID
        assert {curve.weight_decay for curve in trials} == {0.0, 0.1}
    for m in runs:
        chosen = tuned[m.job.rule].outcome
        assert m.job.split is Split.TEST
        assert (m.job.learning_rate, m.job.weight_decay) == (chosen.learning_rate, chosen.weight_decay)
    for name, row in rows.items():
        assert (row.p_value is None) == (name == "adam")
        assert row.interval is not None
        assert row.weight_decay in (0.0, 0.1)
    assert [row.scores[0] for row in first] == [rows[row.name].scores[0] for row in first]
    before = (tmp_path / "comparison.json").read_text(encoding="utf-8")
    assert small(tmp_path, ["adam", TEXT, "sgd"]) == list(rows.values())
    assert (tmp_path / "comparison.json").read_text(encoding="utf-8") == before
    content = json.loads(before)
    assert [row["name"] for row in content["comparisons"]] == list(rows)
    assert [row["learning_rate"] for row in content["comparisons"]] == [row.learning_rate for row in rows.values()]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StudyError, match=r"evaluation\.protocol\.full_steps: 40 there, 41 here"):
        small(tmp_path, settings=[*TINY, "full_steps=41"])
    with pytest.raises(StudyError, match="seed: 0 there, 1 here"):
        small(tmp_path, seed=1)


def test_the_reference_is_the_first_or_one_of_the_zoo_that_joins(tmp_path: Path) -> None:
    rows = {row.name: row for row in small(tmp_path, {"mine": "momentum: g"}, tasks="quadratics", against="adam")}
    assert set(rows) == {"mine", "adam"}
    assert rows["adam"].difference is None
    assert rows["mine"].difference is not None
    assert json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["against"] == "adam"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rules": ["adm"]}, ParseError, "adam"),
        ({"rules": []}, ConfigError, "at least one rule"),
        ({"rules": "adam"}, ConfigError, "list of rules"),
        ({"rules": {"a/b": "adam"}}, ConfigError, "'a/b'"),
        ({"tasks": []}, ConfigError, "at least one task"),
        ({"tasks": ["no-such-task"]}, TaskError, "no-such-task"),
        ({"protocol": "slow"}, ConfigError, "paper or fast"),
        ({"against": "nobody"}, ConfigError, "got 'nobody'"),
        ({"settings": ["weight_decays=[-0.1]"]}, ConfigError, "weight_decays.0: expected a number that is at least 0"),
        ({"seeds": 0}, ConfigError, "1 to 10,000 seeds, got .* and 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, options: dict[str, object], error: type, says: str) -> None:
    with pytest.raises(error, match=says.replace("[", r"\[")):
        small(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_both_protocols_judge_at_the_end_and_tune_weight_decays() -> None:
    for protocol in PROTOCOLS.values():
        assert protocol.judge == "last"
        assert protocol.weight_decays[0] == 0.0
        assert len(protocol.weight_decays) > 1
    assert optevolve.compare is compare
    assert name_of(ZOO["adam"].rule).startswith("rule-")


def test_a_rule_of_the_zoo_brings_its_weight_decay_in_every_form() -> None:
    """Where the protocol tunes none, AdamW is not Adam."""
    for given in ("adamw", ZOO["adamw"], zoo["adamw"], simplify(zoo["adamw"])):
        (adam, other), _ = _contestants({"a": "adam", "b": given}, "a")
        assert (adam.rule, adam.weight_decay, other.rule, other.weight_decay) == (other.rule, 0.0, str(ZOO["adam"].rule), 0.01)
    found, reference = _contestants([zoo["adam"], zoo["adamw"], "adam", ZOO["adamw"]], "")  # each keeps a name of its own
    assert [row.weight_decay for row in found] == [0.0, 0.01, 0.0, 0.01]
    assert reference == "adamw"
