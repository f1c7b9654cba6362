from dataclasses import replace

import pytest

from optevolve.reporting.summary import duration, interval, number, opening, p_text, verdicts


def first(study):
    return verdicts(study.comparisons, study.config.evaluation.baselines)[0]


@pytest.mark.parametrize(
    ("advantage", "outcome", "headline"),
    [(0.06, "better", "beats tuned Adam"), (0.0, "undecided", "No significant difference"), (-0.2, "worse", "Tuned Adam beats")],
)
def test_says_who_won(make_study, advantage, outcome, headline):
    found = first(make_study(advantage))
    assert found.outcome == outcome
    assert headline in found.headline
    for part in ("95 % interval", "paired seeds", "The difference is", "p ", "Bonferroni"):
        assert part in found.text


def test_numbers_are_those_of_the_comparison(make_study):
    study = make_study(0.06)
    best = max((c for c in study.comparisons[:9] if c.name.startswith("evolved")), key=lambda c: c.mean)
    text = first(study).text
    assert number(best.mean) in text
    assert interval(best.interval) in text
    assert f"The difference is {number(best.difference, 3)} (95 % interval {interval(best.difference_interval, 3)})" in text
    assert p_text(best.p_value, "p") in text
    assert first(study).rule == best.rule


def test_the_best_of_several_must_pass_the_corrected_test(make_study):
    study = make_study(0.06)
    rows = [replace(c, p_value=0.03) if c.p_value is not None else c for c in study.comparisons]
    assert verdicts(rows, study.config.evaluation.baselines)[0].outcome == "undecided"  # 3 × 0.03 > 0.05
    alone = [c for c in rows if c.name not in {"evolved-02", "evolved-03"}]
    assert verdicts(alone, study.config.evaluation.baselines)[0].outcome == "better"


def test_names_a_baseline_that_won(make_study):
    study = make_study(0.06)
    rows = [replace(c, mean=0.999) if c.name == "momentum" else c for c in study.comparisons]
    assert "The highest mean of all is a baseline's: momentum" in verdicts(rows, study.config.evaluation.baselines)[0].text


def test_one_seed_gives_no_test(make_study):
    study = make_study(0.06)
    rows = [replace(c, interval=None, difference_interval=None, p_value=None, seeds=(0,)) for c in study.comparisons]
    found = verdicts(rows, study.config.evaluation.baselines)[0]
    assert found.outcome == "undecided"
    assert "over 1 paired seed;" in found.text
    assert "at least two paired seeds" in found.text


def test_opening_counts(make_study):
    study = make_study()
    text = opening(study.config, study.measurements, finished=False)
    own = sum(m.proposal is not None and not m.same_as for m in study.measurements)
    assert f"measured {own:,} candidates" in text
    assert f"{sum(m.outcome.steps for m in study.measurements if not m.same_as):,} training steps" in text
    assert "not finished" in text
    assert "not finished" not in opening(study.config, study.measurements, finished=True)


def test_formats():
    assert [number(x) for x in (None, 0.12345, -3, float("nan"), float("-inf"))] == ["–", "0.1235", "−3", "not a number", "−∞"]
    assert interval((-0.00008, 0.0368), 3) == "−0.0001 to 0.0368"
    assert interval((0.0, 0.0)) == "0 to 0"
    assert [p_text(p) for p in (0.0004, 0.0213, 0.5, None)] == ["< 0.001", "0.021", "0.50", "–"]
    assert p_text(0.0001, "p") == "p < 0.001"
    assert p_text(0.02, "p") == "p = 0.020"
    assert [duration(s) for s in (1.23, 90, 300, 9000, 400_000)] == ["1.2 s", "90 s", "5.0 min", "2.5 h", "4.6 days"]
