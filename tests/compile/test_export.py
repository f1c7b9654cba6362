"""Exported files: torch with its self-test, optax, LaTeX."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from optevolve.compile import export
from optevolve.compile.export import SELF_TEST_LR, SELF_TEST_STEPS, _self_test_inputs, recorded_trajectory
from optevolve.errors import ExportError
from optevolve.space import parse
from optevolve.zoo import ZOO
from tests.compile.agreement import ZOO_NAMES, random_rules

OPTAX_RULES = {name: ZOO[name].rule for name in ZOO_NAMES} | {
    "random numbers": parse("dropout(a4 * g, 0.3) + noise"),
    "whole tensors": parse("-momentum: normalize(g) + row_normalize(v) + column_normalize(g) + clip_norm(delta(l_hat))"),
}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_file_needs_only_torch_and_tests_itself(tmp_path) -> None:
    path = export(ZOO["opt10"].rule, tmp_path / "my_optimizer.py", provenance="a run", scores={"digits": 0.97}, learning_rate=0.02)
    text = path.read_text()
    assert "optevolve" not in text
    assert '"""MyOptimizer: an optimizer for torch.' in text
    assert "Provenance: a run" in text
    assert "digits: 0.97" in text
    blocked = "import sys; sys.modules['optevolve'] = None; import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", blocked, str(path)], capture_output=True, text=True, check=True, timeout=120)
    assert "MyOptimizer: 20 steps agree" in done.stdout
    (tmp_path / "changed.py").write_text(text.replace("w_next = w * keep", "w_next = 0.999 * w * keep"))
    with pytest.raises(AssertionError, match="step 0"):
        load(tmp_path / "changed.py").self_test()


def test_every_zoo_rule_and_random_ones_export(tmp_path) -> None:
    for i, rule in enumerate([ZOO[name].rule for name in ZOO_NAMES] + random_rules(10)):
        load(export(rule, tmp_path / f"rule_{i}.py")).self_test()


def test_a_recommended_weight_decay_stands_in_the_example(tmp_path):
    text = export(parse("v_hat"), tmp_path / "decayed.py", learning_rate=0.5, weight_decay=0.1).read_text()
    assert "Decayed(model.parameters(), lr=0.5, total_steps=10_000, weight_decay=0.1)" in text
    assert "weight_decay=0.1" not in export(parse("v_hat"), tmp_path / "decayed.py", learning_rate=0.5).read_text()


def test_exported_schedule(tmp_path) -> None:
    import torch

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
    optimizer = module.my_rule(SELF_TEST_LR, SELF_TEST_STEPS)
    start, gradients = _self_test_inputs()
    params = {"a": jax.numpy.array(start), "b": jax.numpy.ones((2, 3))}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for g, expected in zip(gradients, recorded_trajectory(rule), strict=True):
        updates, state = update({"a": jax.numpy.array(g), "b": jax.numpy.ones((2, 3))}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["a"], expected, rtol=2e-5, atol=2e-5)
