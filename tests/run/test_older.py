"""Runs whose configs hold what only older versions took are read, opened and gone on with."""

import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from places import sample

from optevolve.config_text import from_toml, preset, to_toml
from optevolve.errors import ConfigError
from optevolve.run.folder import open_run, read_run

QUICK = preset("quick")
LEAST = -sys.float_info.max


def aged(folder: Path, *changes: tuple[str, str], protocol: tuple[str, str]) -> None:
    """A run with one measurement, whose stored text is changed as an older version would have written it."""
    with open_run(folder, QUICK) as (study, config):
        measurement = sample("initial/0000", "initial")
        study.record(replace(measurement, job=replace(measurement.job, protocol=config.initial.protocol)))
    text = to_toml(QUICK)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        connection.execute("update studies set config = ?", (text,))
        assert connection.execute("select protocol from evaluations where protocol like ?", (f"%{protocol[0]}%",)).fetchall()
        connection.execute("update evaluations set protocol = replace(protocol, ?, ?)", protocol)
    with pytest.raises(ConfigError, match=r"finite|once|at most"):
        from_toml(text)


@pytest.mark.parametrize("word", ["-inf", "nan"])
def test_floors_that_stop_nobody(word: str, tmp_path: Path) -> None:
    aged(
        tmp_path / "run",
        ('\nfloor = "none"', f"\nfloor = {word}"),
        protocol=('"floor": null', f'"floor": {"-Infinity" if word != "nan" else "NaN"}'),
    )
    for opened in (
        read_run(tmp_path / "run"),
        open_run(tmp_path / "run", None),
        open_run(tmp_path / "run", None, settings=["contenders=2"]),
    ):
        with opened as (study, config):
            assert config.evolution.protocol.floor == LEAST
            (found,) = study.measurements()
            assert found.job.protocol == config.initial.protocol  # so that what is asked again is found
    with read_run(tmp_path / "run") as (study, config):
        assert (config.contenders, "inf" in study.config_text) == (2, False)


def test_what_stands_twice_and_limits_without_end(tmp_path: Path) -> None:
    rates = QUICK.initial.protocol.learning_rates
    as_toml = f"learning_rates = [{', '.join(map(repr, rates))}]"
    as_json = ", ".join(map(repr, rates))
    twice = [
        (as_toml, as_toml.replace("]", f", {rates[0]!r}]")),
        ('memory_limit = "none"', "memory_limit = inf"),
        ("baselines = [", 'baselines = ["sgd", "sgd", '),
    ]
    aged(tmp_path / "run", *twice, protocol=(as_json, f"{as_json}, {rates[0]!r}"))
    with open_run(tmp_path / "run", None) as (study, config):
        assert config.workers.memory_limit is None
        assert config.evaluation.baselines[0] == "sgd"
        assert len(set(config.evaluation.baselines)) == len(config.evaluation.baselines)
        assert study.measurements()[0].job.protocol == config.initial.protocol == QUICK.initial.protocol


def test_numbers_beyond_all_bounds_that_did_the_same(tmp_path: Path) -> None:
    beyond = [('time_limit = "none"', "time_limit = 1e10"), ('memory_limit = "none"', "memory_limit = 8e9")]
    beyond += [("halving = 3", "halving = 2000"), ("trial_floor_epoch = 3", "trial_floor_epoch = 2000000000")]
    aged(tmp_path / "run", *beyond, protocol=('"halving": 3', '"halving": 2000'))
    with open_run(tmp_path / "run", None) as (study, config):
        assert (config.workers.time_limit, config.workers.memory_limit) == (None, None)
        assert config.initial.protocol.halving == 1000
        assert config.initial.protocol.trial_floor_epoch == 10**9
        assert study.measurements()[0].job.protocol.halving == 1000
