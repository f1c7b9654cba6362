"""Output survives terminals without Unicode; folders that are not there, and runs that have not begun, are answered."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from optevolve.cli import main
from optevolve.config_text import apply_settings, preset
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.run.folder import open_run

LOUD = """
import sys, torch, optevolve as oe

class Loud(oe.Task):
    def model(self): return torch.nn.Linear(1, 1)
    def batches(self, split, seed): yield oe.Batch(torch.ones(4, 1), torch.zeros(4, 1))
    def loss(self, model, batch):
        print("loss µ ✓ 漢 …")
        return model(batch.x).square().mean()
    def score(self, model, batch):
        print("score half \\ud800", file=sys.stderr)
        return -model(batch.x).square().mean()
"""
ENCODINGS = ("ascii", "latin-1", "cp1252")


def begin(folder: Path, rule: str = "g", reason: str = "") -> None:
    """A run with one measurement, and one that failed for that reason."""
    with open_run(folder, preset("quick")) as (study, config):
        for number, outcome in enumerate((Outcome(Status.COMPLETED, 0.5, 0.1), Outcome(Status.FAILED, reason=reason))):
            job = Job(f"initial/{number:04d}", rule, "digits", config.initial.protocol, 0)
            study.record(Measurement("initial", job, outcome, Proposal(job.id, rule, "{}", "initial")))
        study.finish()


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[str, str, int]:
    """What a command writes on a terminal of that encoding, and its exit code."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    return out, err, caught.value.code or 0


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "opt6"], 0), (["show", "opt6", "--json"], 0), (["show", "--names"], 0), (["zoo"], 0), (["tasks"], 0), (["--help"], 0),
        (["search", "--help"], 0), (["config", "--preset", "paper"], 0), (["show", "∇·x²"], 2), (["search", "--nö"], 2),
    ],
)  # fmt: skip
def test_commands_on_terminals_without_unicode(encoding: str, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err, found = printed(monkeypatch, encoding, *arguments)
    assert found == code
    assert (err if code else out).strip()
    if "--json" in arguments:
        assert json.loads(out)["rule"].startswith("erfc")
    if arguments == ["show", "opt6"] and encoding == "ascii":
        assert "w <- w - alpha * n10" in out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_runs_on_terminals_without_unicode(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "r", reason="ValueError: größer als 3 × ∞")
    monkeypatch.chdir(tmp_path)
    for arguments, expected in ((["r"], 0), (["r", "--follow"], 0), (["naïve…"], 2)):
        out, err, code = printed(monkeypatch, encoding, "top", *arguments)
        assert code == expected, err
        assert ("0.5000" in out) == (code == 0)


def test_a_process_on_an_ascii_terminal() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "optevolve", "show", "v_hat / sqrt(s_hat)"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert b"alpha learning rate" in done.stdout


def test_a_task_may_print_anything_on_an_ascii_terminal(tmp_path: Path) -> None:
    """Where it is tried, with this terminal, and where it is measured, into a log."""
    (tmp_path / "loud.py").write_text(LOUD, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "optevolve",
        "compare",
        "sgd",
        "--task",
        "loud.py:Loud",
        "--out",
        "out",
        "--seeds",
        "1",
        "--workers",
        "1",
    ]
    short = ("learning_rates=[0.1]", "trial_steps=2", "full_steps=2", "epoch_steps=2", "weight_decays=[0.0]", "rungs=1", "full_seeds=1")
    command += [word for setting in short for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with (tmp_path / "printed").open("wb") as file:  # which can say where in it one is, as no pipe can
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.PIPE, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert b"loss mu ok ? ..." in (tmp_path / "printed").read_bytes() + done.stderr
    logs = b"".join(path.read_bytes() for path in (tmp_path / "out" / "workers").iterdir())
    assert "loss µ ✓ 漢 …".encode() in logs
    assert b"score half ?" in logs


def test_a_store_cannot_write_to_the_terminal_by_escape_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_run(tmp_path / "r", preset("quick")) as (study, config):
        job = Job("initial/0000", "g", "digits", config.initial.protocol, 0)
        study.record(Measurement("x\x1b[2J\x1b]0;owned\x07", job, Outcome(Status.COMPLETED, 0.5, 0.1)))
        study.finish()
    out, err, code = printed(monkeypatch, "utf-8", "top", "r", "--follow")
    assert code == 0
    assert "x\\x1b[2J" in out
    _, err, _ = printed(monkeypatch, "utf-8", "top", "no\x1b[2Jrun")
    assert "no\\x1b[2Jrun" in err
    assert "\x07" not in out
    assert "\x1b[2J" not in out + err


@pytest.mark.parametrize(
    "arguments",
    [["export", "opt6", "-o", "{}"], ["export", "opt6", "-o", "{}.tex", "-f", "latex"], ["show", "opt6", "--plot", "{}.svg"]],
)
def test_a_folder_that_is_not_there_is_named(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place, found in (("no_such/my_optimizer", "none"), ("file/my_optimizer", "a file")):
        _, err, code = printed(monkeypatch, "utf-8", *(argument.format(place) for argument in arguments))
        assert code == 2
        assert f"Expected an existing folder for {place}" in err
        assert f"found {found} at" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_follow_waits_for_a_run_that_is_about_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = threading.Timer(0.5, begin, [tmp_path / "later"])
    later.start()
    out, _, code = printed(monkeypatch, "utf-8", "top", str(tmp_path / "later"), "--follow", "--every", "0.1")
    later.join()
    assert code == 0
    assert out.count("waiting for it to start. Ctrl-C leaves.") == 1
    assert "0.5000" in out


def test_ctrl_c_leaves_a_wait_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaving = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    leaving.start()
    out, err, code = printed(monkeypatch, "utf-8", "top", str(tmp_path / "never"), "--follow", "--every", "0.1")
    leaving.join()
    assert (code, err) == (0, "")
    assert "waiting" in out
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("5m", 300), ("90s", 90), ("1h30m", 5400), ("90", 90), ("1.5h", 5400), ("2m 5s", 125), ("none", None), ("0.5", 0.5)],
)
def test_the_time_per_measurement_is_said_as_people_say_it(said: str, seconds: float | None) -> None:
    assert apply_settings(preset("quick"), [f"workers.time_limit={said}"]).workers.time_limit == seconds


@pytest.mark.parametrize("said", ["5x", "m5", "-3m", "5m1h", "soon", "0s", ""])
def test_what_is_no_time_is_answered(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["search", "--task", "quadratics", "--time-limit", said, "--out", str(tmp_path / "r")]
    _, err, code = printed(monkeypatch, "utf-8", *options)
    assert code == 2
    assert "workers.time_limit: expected" in err
    assert not (tmp_path / "r").exists()


def test_the_option_is_named_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _, _ = printed(monkeypatch, "utf-8", "search", "--help")
    assert "--measurement-time" in out
    assert "per measurement" in " ".join(out.replace("│", " ").split())


@pytest.mark.parametrize(
    "mistake",
    [
        ["--task", "quadratic"], ["--task", "quadratics@conditon=3"], ["--task", "broken.py:Task"], ["--task", "absent:Task"],
        ["--task", "cifar10-convnet", "--data", "empty"], ["--task", "quadratics", "--set", 'evaluation.baselines=["adamm"]'],
        ["--task", "quadratics", "--set", 'evaluation.tasks=["digts"]'],
    ],
)  # fmt: skip
def test_a_mistake_leaves_no_folder(mistake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OPTEVOLVE_DATA", "")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.py").write_text("import no_such_module_at_all", encoding="utf-8")
    _, err, code = printed(monkeypatch, "utf-8", "search", "--preset", "quick", "--out", "r", *mistake)
    assert code == 2
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def test_a_folder_belongs_to_what_was_measured_in_it(tmp_path: Path) -> None:
    first, second = (apply_settings(preset("quick"), [f"seed={seed}"]) for seed in (1, 2))
    with open_run(tmp_path / "r", first):
        pass  # killed before anything was measured
    with open_run(tmp_path / "r", second) as (study, config):
        assert config.seed == 2
        assert "seed = 2" in study.config_text
        assert "seed = 2" in (tmp_path / "r/config.toml").read_text(encoding="utf-8")
        job = Job("initial/0000", "g", "digits", config.initial.protocol, 0)
        study.record(Measurement("initial", job, Outcome(Status.COMPLETED, 0.5, 0.1), Proposal(job.id, "g", "{}", "initial")))
        with pytest.raises(ValueError, match="measured already"):
            study.restart("x")
    with pytest.raises(Exception, match=r"holds another run \(seed: 2 there, 1 here\)"), open_run(tmp_path / "r", first):
        pass
