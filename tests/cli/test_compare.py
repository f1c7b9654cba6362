"""`optevolve compare`: the table that a person reads, the JSON that a program reads, and a rule that looks like an option."""

import json
from pathlib import Path

import pytest

from optevolve.cli.app import main

TINY = [
    "--task", "quadratics", "--workers", "1", "--set", "learning_rates=[1.0, 0.1]", "--set", "full_steps=40", "--set", "trial_steps=8",
    "--set", "full_seeds=1",
]  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["adam", "adamw", "-momentum: -1 * g", *TINY, "--out", tmp_path, "--seeds", "2", "--against", "adam"]
    common += ["--set", "weight_decays=[0.0]"]  # none is tuned, so that each takes its own
    code, out, _ = run(capsys, *common)
    assert code == 0
    assert "quadratics, test split" in out
    heading = next(line for line in out.splitlines() if line.startswith("name"))
    assert heading.split("  ")[0] == "name"
    assert [word for word in ("- adam", "p corrected", "lr", "wd", "rule") if word not in heading] == []
    assert "-momentum" not in out  # the table shows what a rule is in short
    assert " momentum: g" in out
    code, out, err = run(capsys, *common, "--json")
    printed = json.loads(out)
    assert code == 0
    assert printed == json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))["comparisons"]
    assert sorted(row["name"] for row in printed if row["p_value"] is None) == ["adam"]
    assert {row["name"]: row["weight_decay"] for row in printed if row["name"].startswith("adam")} == {"adam": 0.0, "adamw": 0.01}
    assert "comparison" in err  # progress is not in the way of the JSON


def test_mistakes_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in ((["adam", "--against", "nobody"], "nobody"), (["adm"], "adam")):
        code, out, err = run(capsys, *arguments, *TINY, "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        assert says in err
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
