"""Texts of a stranger's store, task, config or rule reach no terminal and no file as anything but visible characters."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from optevolve.cli import main
from optevolve.config import EliminationRound, Protocol
from optevolve.config_text import preset, to_toml
from optevolve.contestants import job_id
from optevolve.printable import shielded
from optevolve.progress import Progress
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status
from optevolve.run.folder import open_run
from optevolve.run.watch import Journal

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08b\x7f\u202ec\u2066\u200b\u2028\x00\U000e0041d"
TASK = f"""
import torch
from torch import nn
import optevolve as oe

class Rude(oe.Task):
    summary = {HOSTILE!r}
    def model(self):
        return nn.Linear(1, 1)
    def batches(self, split, seed):
        yield oe.Batch(torch.ones(4, 1), torch.ones(4, 1))
    def loss(self, model, batch):
        raise RuntimeError({HOSTILE!r} * 2)
    def score(self, model, batch):
        return -self.loss(model, batch)

class Wordy(Rude):
    def loss(self, model, batch):
        return (model(batch.x) - batch.y).square().mean() + torch.rand(())
"""


def obeyed(text: str) -> set[str]:
    return {c for c in text if c not in "\n\t" and shielded(c) != c}


def measurements(protocol: Protocol, task: str) -> list[Measurement]:
    """A small run whose every text is hostile, as far as the store takes it."""
    found = []
    completed = Status.COMPLETED
    search = [("initial", completed), ("initial", Status.FAILED), ("evolution", completed), (HOSTILE, Status.STOPPED)]
    for number, (stage, status) in enumerate(search):
        job = Job(f"{stage}/{HOSTILE}/{number}", "g", task, protocol, 0)
        proposal = Proposal(job.id, "g", "{}", stage, mutation=HOSTILE, rejected=((HOSTILE, HOSTILE),))
        fitness = 0.5 if status is Status.COMPLETED else None
        found.append(Measurement(stage, job, Outcome(status, fitness, 0.1, HOSTILE, device=HOSTILE), proposal))
    for stage, split in (("tune", Split.VALID), ("choose", Split.VALID), ("evaluate", Split.TEST)):
        for name, rule in ((f"evolved-{HOSTILE}", "g"), (f"x{HOSTILE}", "w"), ("adamw", "v_hat / sqrt(s_hat)")):
            lost = name[0] == "x" and stage == "evaluate"
            outcome = Outcome(Status.DIVERGED, reason=HOSTILE) if lost else Outcome(Status.COMPLETED, 0.5, 0.1)
            found.append(Measurement(stage, Job(job_id(stage, name, task, 0), rule, task, protocol, 0, split), outcome))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    quick = preset("quick")
    config = replace(quick, task=HOSTILE, data=HOSTILE.replace("\0", ""), elimination=(EliminationRound(keep=1, task=HOSTILE),))
    with open_run(folder, config) as (study, _):
        for measurement in measurements(config.initial.protocol, HOSTILE):
            study.record(measurement)
        study.note("floors", said=HOSTILE)
        study.note("ended", reason=HOSTILE)
        study.finish()
        study.note("reported")
    (folder.parent / "rude.py").write_text(TASK, encoding="utf-8")
    (folder.parent / "mine.toml").write_text(to_toml(config), encoding="utf-8")
    (folder.parent / "wrong.toml").write_text(
        to_toml(config).replace("[search]", f"[{json.dumps('ser' + HOSTILE[:-2])}]"), encoding="utf-8"
    )
    return folder


# With their exit codes; None where any will do that is an answer.
COMMANDS: dict[str, int | None] = {
    "top run": None,
    "top run --json": None,
    "top run --follow": None,
    "show run": None,
    "show run --json": None,
    "report run --figures pictures": None,
    "export run -o torch_file.py": None,
    "export run -o jax_file.py -f optax": None,
    "export run -o found.tex -f latex": None,
    "verify run": None,
    "verify run --json": None,
    "resume run": 2,
    "evaluate run": 2,
    "backup run copy": 0,
    "config wrong.toml": 2,
    "config mine.toml": 2,
    "tasks --check rude.py:Rude": 2,
    "tasks --check rude.py:Wordy": None,
    "search --preset quick --task rude.py:Rude --out new": 2,
    "compare adam --task rude.py:Rude --out compared": 2,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_print_visible_characters_alone(
    command: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    before = set(run.parent.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    said = capsys.readouterr()
    assert said.out + said.err
    assert obeyed(said.out + said.err) == set()
    assert COMMANDS[command] in (None, ended.value.code)
    assert ended.value.code in (0, 1, 2, None)
    if "json" in command and said.out:
        json.loads(said.out)
    for file in {*set(run.parent.rglob("*")) - before, run / "report.html"}:
        if file.suffix in (".py", ".tex", ".html", ".svg", ".json", ".jsonl", ".toml") and file.is_file() and file.name != "rude.py":
            assert obeyed(file.read_text(encoding="utf-8")) == set(), file


@pytest.mark.parametrize("text", [HOSTILE, f"momentum: {HOSTILE}", "g + \x1b[31m", "clip(g, \u202e)"])
def test_a_rule_that_is_none_is_quoted_visibly(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["show", text], ["export", text, "-o", "x.py"]):
        with pytest.raises(SystemExit):
            main(command)
        said = capsys.readouterr()
        assert said.err.startswith("Error: ")
        assert obeyed(said.out + said.err) == set()


def test_progress_shows_and_does_not_obey(tmp_path: Path) -> None:
    pages = [io.StringIO(), io.StringIO()]
    for page, terminal in zip(pages, (True, False), strict=True):
        console = Console(file=page, force_terminal=terminal, width=200, highlight=False, markup=False)
        with Progress(console, every=0.0) as progress, Journal(tmp_path / "log.jsonl") as journal:
            for measurement in measurements(preset("quick").initial.protocol, HOSTILE):
                progress.on_stage(measurement.stage, 3)
                progress.on_measurement(measurement)
            progress.note(HOSTILE)
            journal.write("callback", text=HOSTILE)
    own = Console(file=io.StringIO(), force_terminal=True)  # what rich itself says to a terminal is of cursors and colours
    assert own.is_terminal
    for page in pages:
        text = page.getvalue()
        for piece in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\x08", "\u202e", "\u2066", "\u2028", "\x00"):
            assert piece not in text
        assert "\\x1b[2J" in text
    assert obeyed((tmp_path / "log.jsonl").read_text(encoding="utf-8")) == set()


def test_the_same_config_comes_back_from_what_is_shown() -> None:
    from optevolve.config_text import from_toml

    config = replace(preset("quick"), task=HOSTILE, data="\x7f\x85\U000e0041\t\n")
    text = to_toml(config)
    assert obeyed(text) == set()
    assert from_toml(text) == config
