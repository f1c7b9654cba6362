"""Exported files: torch with its self-test, optax, LaTeX."""

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from optevolve.compile import export
from optevolve.compile.self_test import LR, STEPS, inputs, recorded_trajectory
from optevolve.errors import ExportError
from optevolve.library import ZOO
from optevolve.space import parse
from tests.compile.agreement import random_rules
from tests.compile.exported import RULES, load
from tests.compile.selection import WHOLE, ZOO_NAMES

OPTAX_RULES = {name: ZOO[name].rule for name in ZOO_NAMES} | {
    "random numbers": parse("dropout(a4 * g, 0.3) + noise"),
    "whole tensors": parse("-momentum: normalize(g) + row_normalize(v) + column_normalize(g) + clip_norm(delta(l_hat))"),
}


BLOCKED = "import sys; sys.modules['optevolve'] = None; import runpy; [runpy.run_path(path, run_name='__main__') for path in sys.argv[1:]]"
WITHOUT_COMPILER = {"CXX": "", "PATH": ""}


def run_files(paths, folder, **environment) -> subprocess.CompletedProcess:
    """`python FILE`, for each, where the project cannot be imported, with a cache of kernels of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CXXFLAGS": "-O1", "RULE_KERNEL_CACHE": str(folder / "kernels"), **environment}
    command = [sys.executable, "-W", "always", "-c", BLOCKED, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=280, cwd=folder, env=environment)


def test_files_test_themselves_without_the_project(exported_files, tmp_path) -> None:
    """In each way to run the step, the compiled kernel included where the rule has one."""
    rules = ["opt6", "norms_and_draws", "muon", *(["adam", "opt10", "a5"] if WHOLE else [])]
    done = run_files([exported_files[rule] for rule in rules], tmp_path)
    assert done.stdout == "Exported: 10 steps agree with the recorded trajectory\n" * len(rules)
    assert "cannot be compiled" not in done.stderr
    assert len(list(tmp_path.glob("kernels/*.so"))) == len(rules) - 1  # torch's own kernels are the fast way for matrices


def test_without_a_compiler_a_file_says_so_once_and_goes_on(exported_files, tmp_path) -> None:
    done = run_files([exported_files["opt6"]], tmp_path, **WITHOUT_COMPILER)
    assert "10 steps agree" in done.stdout
    assert done.stderr.count("UserWarning: The fused step cannot be compiled") == 1


def test_self_tests_see_a_changed_rule(exported_files, tmp_path) -> None:
    text = exported_files["opt6"].read_text()
    (tmp_path / "changed.py").write_text(text.replace("w_next = w * keep", "w_next = 0.999 * w * keep"))
    with pytest.raises(AssertionError, match="step 0"):
        load(tmp_path / "changed.py").self_test()


def test_header(tmp_path) -> None:
    path = export(ZOO["opt10"].rule, tmp_path / "my_optimizer.py", provenance="a run", scores={"digits": 0.97}, learning_rate=0.02)
    text = path.read_text()
    assert "optevolve" not in text
    assert '"""MyOptimizer: an optimizer for torch.' in text
    assert "Provenance: a run" in text
    assert "digits: 0.97" in text
    assert load(path).MyOptimizer([torch.nn.Parameter(torch.ones(1))], total_steps=3).param_groups[0]["lr"] == 0.02


def test_random_rules_export(tmp_path, monkeypatch) -> None:
    for name, value in WITHOUT_COMPILER.items():
        monkeypatch.setenv(name, value)
    for i, rule in enumerate(random_rules(10 if WHOLE else 4)):
        module = load(export(rule, tmp_path / f"rule_{i}.py"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*cannot be compiled")
            module.self_test()


def test_files_are_clean(exported_files) -> None:
    """Linters, the formatter and the type checker have nothing to say; print is what a script is for."""
    folder = exported_files["sgd"].parent
    assert {path.parent for path in exported_files.values()} == {folder}
    tool = [sys.executable, "-m"]
    settings = ["--config", str(Path(__file__).parents[2] / "pyproject.toml"), "--no-cache"]
    few = [str(exported_files[name]) for name in ("sgd", "opt6", "muon", "norms_and_draws")]
    for command in (
        [*tool, "ruff", "check", *settings, "--ignore", "T201", str(folder)],
        [*tool, "ruff", "format", "--diff", *settings, str(folder)],
        [*tool, "mypy", "--config-file", os.devnull, "--cache-dir", str(folder / ".mypy"), "--follow-imports", "skip", *few],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES)
def test_nothing_in_a_file_is_idle(rule: str, exported_files) -> None:
    """Each function, class, constant, method and import is referred to beyond its own definition, or called by torch or the user."""
    tree = ast.parse(exported_files[rule].read_text())
    defined, read = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).append(node.id)
        elif isinstance(node, ast.Attribute):
            read.append(node.attr)
    idle = {name for name in defined if name not in read and not name.startswith("__")}
    assert idle <= {"Exported", "WarmupCosine", "annotations", "add_param_group", "RULE", "get_lr", "_"}


@pytest.mark.parametrize(("rule", "idle"), [
    ("opt6", ["vector_norm", "def draw", "seed", "Reduce", "bessel", "momentum_at", "uniforms", "FlatBucket", "squares", "sigmoid"]),
    ("sgd", ["numbers_at", "_rows", "_warned", "__torch_function__", "__truediv__", "blendv"]),
    ("muon", ["ctypes", "#include", "KERNEL", "column_rms"]),
    ("draws", ["Reduce", "momentum_buffer", "squares"]),
])  # fmt: skip
def test_what_a_rule_does_not_need_is_left_out(rule: str, idle: list[str], exported_files) -> None:
    text = exported_files[rule].read_text()
    for word in idle:
        assert word not in text, word


def test_files_stay_short(exported_files) -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in exported_files.items()}
    assert lines["sgd"] <= 670
    assert lines["opt6"] <= 740
    assert max(lines.values()) <= 1050


def test_a_recommended_weight_decay_stands_in_the_example(tmp_path):
    text = export(parse("v_hat"), tmp_path / "decayed.py", learning_rate=0.5, weight_decay=0.1).read_text()
    example = next(line for line in text.splitlines() if "optimizer = Decayed(" in line)
    assert "lr=0.5" in example
    assert "weight_decay=0.1" in example
    assert "weight_decay=0.1" not in export(parse("v_hat"), tmp_path / "decayed.py", learning_rate=0.5).read_text()


def test_exported_schedule(tmp_path) -> None:
    module = load(export(parse("v_hat"), tmp_path / "with_schedule.py", learning_rate=0.5))
    optimizer = module.WithSchedule([torch.nn.Parameter(torch.ones(1))])
    scheduler = module.WarmupCosine(optimizer, 10, warmup=2)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.25]


def test_latex(tmp_path) -> None:
    text = export(ZOO["opt1"].rule, tmp_path / "opt1.tex", format="latex", provenance="the paper").read_text()
    assert r"\leftarrow" in text
    assert "% Provenance: the paper" in text


def test_what_cannot_be_written_is_refused(tmp_path) -> None:
    with pytest.raises(ExportError, match="identifier"):
        export(parse("g"), tmp_path / "a.py", name="no name")
    with pytest.raises(ExportError, match="format"):
        export(parse("g"), tmp_path / "a.py", format="onnx")
    with pytest.raises(ExportError, match="Expected to write"):
        export(parse("g"), tmp_path)


@pytest.mark.parametrize("name", OPTAX_RULES)
def test_optax_text_compiles(tmp_path, name: str) -> None:
    """Where jax is not installed: the text is Python, and nothing of torch is left in it."""
    path = export(OPTAX_RULES[name], tmp_path / "rule.py", format="optax")
    compile(path.read_text(), str(path), "exec")
    assert "torch." not in path.read_text()
    assert "reduce." not in path.read_text()


@pytest.mark.parametrize("name", OPTAX_RULES)
def test_optax_follows_the_reference(tmp_path, name: str) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    optax = pytest.importorskip("optax", reason="optax is not installed")
    rule = OPTAX_RULES[name]
    module = load(export(rule, tmp_path / "my_rule.py", format="optax"))
    optimizer = module.my_rule(LR, STEPS)
    start, gradients = inputs()
    params = {"a": jax.numpy.array(start), "b": jax.numpy.ones((2, 3))}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g, expected in zip(gradients, recorded_trajectory(rule), strict=True):
        updates, state = update({"a": jax.numpy.array(g), "b": jax.numpy.ones((2, 3))}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["a"], expected, rtol=2e-5, atol=2e-5)
