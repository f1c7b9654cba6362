from optevolve.reporting.summary import opening


def test_opening_counts(make_study):
    study = make_study()
    text = opening(study.config, study.measurements, finished=False)
    own = sum(m.proposal is not None and not m.same_as for m in study.measurements)
    assert f"measured {own:,} candidates" in text
    assert f"{sum(m.outcome.steps for m in study.measurements if not m.same_as):,} training steps" in text
    assert "not finished" in text
    assert "not finished" not in opening(study.config, study.measurements, finished=True)
