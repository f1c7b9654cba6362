"""Callbacks hear the same whatever happened on the way, and cannot end a run; the log is one JSON object a line."""

import importlib
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from optevolve.config import Protocol, Search, Workers
from optevolve.errors import ConfigError, StudyError
from optevolve.records import Job, Measurement, Outcome, Proposal, Status, TrainingCurve
from optevolve.run.driver import Happening, drive
from optevolve.run.local import SerialRunner
from optevolve.run.metrics import metrics
from optevolve.run.session import make_runner, session
from optevolve.run.store import Study
from optevolve.run.store.rows import canonical
from optevolve.run.watch import Journal, Watch

SEARCH = Search(population=8, particles=2, timesteps=3, children=3, redraws=1, lookahead=4)


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_evaluation(self, measurement: Measurement, stored: bool) -> None:
        self.heard.append(("evaluation", measurement.job.id, measurement.outcome.fitness))

    def on_timestep(self, particle: int, timestep: int, best: Measurement | None) -> None:
        self.heard.append(("timestep", particle, timestep, best and best.outcome.fitness))

    def on_end(self, finished: bool) -> None:
        self.heard.append(("end", finished))


def source() -> Any:
    return importlib.import_module("search_source")


def test_a_log_tells_what_was_measured_when_the_driver_was_killed(tmp_path: Path) -> None:
    def happening(kind: str, name: str) -> Happening:
        return Happening(kind, 0, "initial", Job(name, "g", "own.py:Task", Protocol(), 0), None, Outcome(Status.FAILED))

    path = tmp_path / "log.jsonl"
    for killed in (True, True, False):
        journal = Journal(path)
        assert journal.cut_off == (("b of task own.py:Task", "c of task own.py:Task") if path.stat().st_size else ())
        journal.write("start")
        for kind, name in (("submitted", "a"), ("submitted", "b"), ("measured", "a"), ("submitted", "c")):
            journal(happening(kind, name))
        if not killed:
            journal.write("end", finished=True)
        journal.close()
        with path.open("a", encoding="utf-8") as file:
            file.write('{"event": "meas' if killed else "")
    with Journal(path) as journal:
        assert journal.cut_off == ()


def test_callbacks_hear_evaluations_in_order_then_timesteps_with_their_best_child(tmp_path: Path) -> None:
    ear = Ear()
    with Study.create(tmp_path / "study.db", "x") as study:
        watch = Watch([ear])
        drive(source().SearchSource(SEARCH), SerialRunner(source().fitness), study, lookahead=4, on_event=watch)
        watch.end(True)
        measured = study.measurements()
    assert [h[1] for h in ear.heard if h[0] == "evaluation"] == [m.job.id for m in measured]
    steps = {(h[1], h[2]): h[3] for h in ear.heard if h[0] == "timestep"}
    assert set(steps) == {(particle, step) for particle in range(2) for step in (1, 2, 3)}
    for (particle, step), best in steps.items():
        own = [m for m in measured if m.proposal.particle == particle and m.proposal.timestep == step]
        assert best == max((m.outcome.fitness for m in own if m.outcome.status is Status.COMPLETED), default=None)
        last = max(ear.heard.index(("evaluation", m.job.id, m.outcome.fitness)) for m in own)
        assert ear.heard.index(("timestep", particle, step, best)) > last
    assert ear.heard[-1] == ("end", True)


def test_a_resumed_run_tells_the_same_again(tmp_path: Path) -> None:
    heard = []
    for _ in range(2):
        ear = Ear()
        path = tmp_path / "study.db"
        with Study.open(path) if path.exists() else Study.create(path, "x") as study:
            watch = Watch([ear])
            drive(source().SearchSource(SEARCH), SerialRunner(source().fitness), study, lookahead=4, on_event=watch)
            watch.end(True)
        heard.append(ear.heard)
    assert heard[0] == heard[1]


def test_a_callback_that_fails_is_left_out_and_said_aloud(tmp_path: Path) -> None:
    class Away(Ear):
        def on_timestep(self, particle: int, timestep: int, best: Measurement | None) -> None:
            raise ConnectionError("the metrics server is away")

    away, ear, said = Away(), Ear(), []
    watch = Watch([away, ear], said.append)
    with Study.create(tmp_path / "study.db", "x") as study, pytest.warns(RuntimeWarning, match="Away failed .* server is away"):
        drive(source().SearchSource(SEARCH), SerialRunner(source().fitness), study, lookahead=4, on_event=watch)
    watch.end(True)
    assert ("end", True) in ear.heard
    assert ("end", True) not in away.heard
    assert len(said) == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("action", ["default", "error", "ignore"])
@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), GeneratorExit(), BaseException("x"), Unspeakable()])
def test_nothing_that_a_callback_raises_ends_a_run_whatever_is_done_with_warnings(action: Any, error: BaseException) -> None:
    class Same(Ear):
        def __eq__(self, other: object) -> bool:
            raise error

        __hash__ = None  # type: ignore[assignment]

        def on_end(self, finished: bool) -> None:
            raise error

    ear, said = Ear(), []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter(action)
        watch = Watch([Same(), ear], said.append)
        watch.end(True)
        watch.end(True)
    assert ear.heard == [("end", True)] * 2
    assert len(said) == 1
    assert [str(warning.message) for warning in warned] == (said if action != "ignore" else [])
    assert f"Same failed and is told nothing more: {type(error).__name__}" in said[0]


def test_ctrl_c_in_a_callback_is_the_user_s() -> None:
    class Slow(Ear):
        def on_end(self, finished: bool) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watch([Slow()]).end(True)


def test_a_session_is_logged_line_by_line_with_its_end(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", "x") as study:
        with session(study, source().fitness, Workers(), 1, tmp_path) as work:
            work(source().SearchSource(SEARCH), 4, same=lambda job: job.rule)
        with pytest.raises(ZeroDivisionError), session(study, source().fitness, Workers(), 1, tmp_path):
            raise ZeroDivisionError("by hand")
        jobs = study.jobs()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] in ("start", "end")] == ["start", "end"] * 2
    assert [(line["finished"], line["error"]) for line in lines if line["event"] == "end"] == [
        (True, ""),
        (False, "ZeroDivisionError: by hand"),
    ]
    assert {line["job"] for line in lines if line["event"] == "measured"} == jobs
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_a_line_that_was_cut_off_stays_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "start"}\n{"event": "meas', encoding="utf-8")
    for _ in range(2):
        with Journal(log) as journal:
            journal.write("start")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    assert [json.loads(line)["event"] for line in (lines[0], *lines[2:])] == ["start"] * 3


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="Cannot write the log"):
        Journal(tmp_path / "file" / "log.jsonl")
    if Path("/dev/full").exists():
        with pytest.raises(StudyError, match="No space left"), Journal(Path("/dev/full")) as journal:
            journal.write("x" * 10)


def test_metrics_are_loaded_on_use_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="tensorboard, mlflow, got 'x'"):
        metrics("x", tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        metrics("mlflow", tmp_path)
    sent: list[tuple[Any, ...]] = []
    fake = types.ModuleType("mlflow")
    fake.start_run = lambda run_name: sent.append(("start", run_name))
    fake.log_metric = lambda name, value, step: sent.append((name, value, step))
    fake.end_run = lambda status: sent.append(("end", status))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    callback = metrics("mlflow", tmp_path / "demo")
    with Study.create(tmp_path / "study.db", "x") as study:
        watch = Watch([callback])
        drive(source().SearchSource(SEARCH), SerialRunner(source().fitness), study, lookahead=4, on_event=watch)
        watch.end(False)
        completed = [m for m in study.measurements("initial") if m.outcome.fitness is not None]
    assert sent[0] == ("start", "demo")
    assert sent[-1] == ("end", "KILLED")
    assert sorted(value for name, value, _ in sent[1:-1] if name == "initial/fitness") == sorted(m.outcome.fitness for m in completed)


def test_a_config_names_its_runner(tmp_path: Path) -> None:
    with make_runner(source().fitness, Workers(time_limit=3.0, memory_limit=0.5), 1) as runner:
        assert runner.capacity == 1
        assert runner._limit.fixed == 3.0
        assert runner._memory == 2**29


@pytest.mark.parametrize("wrong", [{"memory_limit": 1e300}, {"memory_limit": float("nan")}, {"time_limit": -1.0}, {"retries": 10**20}])
def test_a_runner_of_values_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"workers.{next(iter(wrong))}: expected"):
        make_runner(source().fitness, Workers(**wrong), 1)


def test_megabytes_of_text_are_cut_where_they_enter(tmp_path: Path) -> None:
    """Reasons, events, the log and warnings, whichever way they come; what is stored says how long it was, and stays as it is."""
    flood = "\ud800\x00\x1b[2J" + "x" * 5_000_000

    class Loud(Ear):
        def on_end(self, finished: bool) -> None:
            raise RuntimeError(flood)

    with Study.create(tmp_path / "study.db", "x") as study, Journal(tmp_path / "log.jsonl") as journal:
        curve = TrainingCurve(0.1, 0, (1,), (1.0,), (1.0,), (1.0,), Status.FAILED, flood)
        outcome = Outcome(Status.FAILED, reason=flood, curves=(curve,), device=flood)
        job = Job("initial/0", "g", "digits", Protocol(), 0)
        study.record(Measurement("initial", job, outcome, Proposal(job.id, "g", "{}", "initial", rejected=(("w", flood),))))
        study.note("ended", reason=flood)
        (found,) = study.measurements()
        assert canonical(outcome) == found.outcome == canonical(found.outcome)
        for text in (found.outcome.reason, found.outcome.device, found.outcome.curves[0].reason, found.proposal.rejected[0][1]):
            assert text.endswith("x… (5,000,012 characters)")
            assert len(text) <= 1000
        assert len(study.events()[-1].detail["reason"]) <= 4000
        with pytest.warns(RuntimeWarning, match="characters") as warned:
            Watch([Loud()], lambda text: journal.write("callback", text=text)).end(True)
        assert len(str(warned[0].message)) < 3000
        assert "\x1b" not in str(warned[0].message)
        journal.write("end", finished=False, error=flood)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000
    assert [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()] == ["callback", "end"]
