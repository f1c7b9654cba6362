"""One row is enough: an operator added to the table can be written, drawn, run, shown, compiled and exported at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optevolve
from optevolve.cli import main
from optevolve.compile import build
from optevolve.compile.self_test import STEPS
from optevolve.space import OPERATORS, Operator, Parameter, UpdateRule, parse, register_operator
from optevolve.space.genome import Genome
from optevolve.space.grammar import from_table, paper_grammar
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.mutate import mutate
from optevolve.space.sample import sample_genome
from optevolve.space.tables import TABLES

# One of each sort: elementwise with a number of its own, also a function of the step; with two arguments, a state and a correction.
SHRINK = Operator(
    "shrink", 1, "sign(x) * maximum(abs(x) - cut, 0)", r"\operatorname{{shrink}}_{{{cut}}}({x})", "moved towards 0 by cut",
    params=(Parameter("cut", 0.0, 10.0, 0.5),), paper="shrink({x}, {cut})", forms=("shrink(x, 0.1)",), decay_forms=("shrink(x, 0.01)",),
)  # fmt: skip
TRAIL = Operator(
    "trail", 2, "new / correction", r"\operatorname{{trail}}_{{{beta}}}({x}, {y})", "average of products, bias-corrected",
    params=(Parameter("beta", 0.0, 1.0),), state="beta * old + (1 - beta) * x * y", correction="1 - beta ** (t + 1)",
    paper="trail({x}, {y}, {beta})", forms=("trail(x, y, 0.8)",),
)  # fmt: skip
TEXTS = {"shrink": "nesterov: shrink(a3 * g, 0.2) + shrink(v_hat)", "trail": "momentum: trail(sign(g), abs(g), 0.8) + 1e-4 * w"}


@pytest.fixture(params=[SHRINK, TRAIL], ids=["shrink", "trail"])
def row(request: pytest.FixtureRequest) -> Iterator[Operator]:
    added: Operator = request.param
    register_operator(added)
    try:
        yield added
    finally:
        del OPERATORS[added.name]


@pytest.fixture
def rule(row: Operator) -> UpdateRule:
    return parse(TEXTS[row.name])


def test_notations(row: Operator, rule: UpdateRule) -> None:
    assert parse(str(rule)) == rule
    paper = optevolve.to_paper(rule)
    assert f"{row.name}(" in paper
    assert optevolve.parse_paper(paper) == rule
    with pytest.raises(optevolve.OptevolveError, match=f"Did you mean '{row.name}'"):
        parse(f"{row.name}k(g)")


def test_parameters(row: Operator) -> None:
    parameter = row.params[0]
    arguments = ", ".join(["g", "w"][: row.arity])
    with pytest.raises(optevolve.OptevolveError, match=parameter.name):
        parse(f"{row.name}({arguments}, 77)")
    if parameter.default is None:
        with pytest.raises(optevolve.OptevolveError):
            parse(f"{row.name}({arguments})")
    else:
        assert parse(f"{row.name}({arguments})") == parse(f"{row.name}({arguments}, {parameter.default})")


def test_pictures_and_words(row: Operator, rule: UpdateRule) -> None:
    assert rf"\operatorname{{{row.name}}}_{{" in optevolve.latex(rule)
    assert "g" in {str(symbol) for symbol in optevolve.to_sympy(rule).free_symbols}
    assert row.summary.removesuffix("cut") in optevolve.explain(rule)  # there with its number
    shown = optevolve.describe(rule, total_steps=10)
    assert len(shown.buffers) == 1 + ("v_hat" in str(rule)) + bool(row.state)
    assert shown.steps


def test_documentation(row: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    table = "unary" if row.arity == 1 else "binary"
    assert row.forms[0] in TABLES[table]()
    with pytest.raises(SystemExit):
        main(["show", "--names"])
    assert row.summary in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["show", TEXTS[row.name], "--json"])
    assert json.loads(capsys.readouterr().out)["rule"] == TEXTS[row.name].replace("shrink(v_hat)", "shrink(v_hat, 0.5)")


def test_drawn_and_mutated(row: Operator) -> None:
    grammar = paper_grammar()
    assert row.forms[0] in grammar.operators(row.arity)
    assert set(row.decay_forms) <= set(grammar.decay_unary)
    rng = np.random.default_rng(0)
    drawn = [genome for genome in (sample_genome(rng, grammar) for _ in range(800)) if f"{row.name}(" in str(genome.rule)]
    assert drawn
    assert all(Genome.from_json(genome.to_json()).rule == parse(str(genome.rule)) == genome.rule for genome in drawn)
    genome = sample_genome(rng, grammar)
    for _ in range(3000):
        genome, change = mutate(genome, rng, grammar, lambda rule: rule.sign)
        if f"to {row.forms[0]}" in change:
            break
    assert f"{row.name}(" in str(genome.rule)


def test_in_a_grammar_of_ones_own(row: Operator) -> None:
    own = from_table({"extends": "bello2017", "unary" if row.arity == 1 else "binary": [row.forms[0]], "name": "mine"})
    assert row.forms[0] in own.operators(row.arity)


def by_hand(name: str, steps: int) -> Any:
    """The weights of the rule in `TEXTS`, in plain numpy."""
    w, m, v, s = np.cos(np.arange(4)), np.zeros(4), np.zeros(4), np.zeros(4)

    def shrink(x: Any, cut: float) -> Any:
        return np.sign(x) * np.maximum(np.abs(x) - cut, 0)

    for t in range(steps):
        g = gradient(t)
        if name == "shrink":
            v = 0.9 * v + 0.1 * g
            u = shrink((1 + np.cos(np.pi * t / steps)) / 2 * g, 0.2) + shrink(v / (1 - 0.9 ** (t + 1)), 0.5)
        else:
            s = 0.8 * s + 0.2 * g  # sign(g) |g| is g
            u = s / (1 - 0.8 ** (t + 1)) + 1e-4 * w
        m = 0.9 * m - 0.1 * u
        w = w + 0.9 * m - 0.1 * u if name == "shrink" else w + m
    return w


def gradient(t: int) -> Any:
    return np.sin(1.3 * np.arange(4) + 0.7 * t + 0.1)


def test_numpy_reference_and_integrity(row: Operator, rule: UpdateRule) -> None:
    optimizer = ReferenceOptimizer(rule, (4,), 20)
    w: Any = np.cos(np.arange(4)).astype(np.float32)
    for t in range(20):
        w = optimizer.step(w, gradient(t).astype(np.float32), np.float32(0.1), np.float32(0.9))
    np.testing.assert_allclose(w, by_hand(row.name, 20), rtol=1e-5, atol=1e-5)
    assert optevolve.check_integrity(rule).ok
    assert optevolve.trajectory(rule, 0.01).shape == (36, 5)


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"flat": True, "fused": False}], ids=["default", "single", "training loop"])
def test_torch_optimizer(row: Operator, rule: UpdateRule, options: dict[str, Any]) -> None:
    parameter = torch.nn.Parameter(torch.cos(torch.arange(4.0)))
    optimizer = build(rule, [parameter], lr=0.1, total_steps=20, momentum=0.9, **options)
    for t in range(20):
        parameter.grad = torch.tensor(gradient(t), dtype=torch.float32)
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), by_hand(row.name, 20), rtol=1e-5, atol=1e-5)


def test_simplified_and_told_apart(row: Operator, rule: UpdateRule) -> None:
    doubled = parse(f"{rule.kind}: -(-({str(rule).partition(': ')[2]}))")
    assert optevolve.simplify(doubled) == optevolve.simplify(rule)
    assert doubled.fingerprint() == rule.fingerprint()
    assert rule.fingerprint() != parse(f"{rule.kind}: g").fingerprint()
    assert not optevolve.nearly_same(rule, parse(f"{rule.kind}: g"))


def test_exported_files(row: Operator, rule: UpdateRule, tmp_path: Path) -> None:
    optevolve.export(rule, tmp_path / "mine.py")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{STEPS} steps agree" in done.stdout
    optevolve.export(rule, tmp_path / "mine.tex", format="latex")
    assert row.name in (tmp_path / "mine.tex").read_text(encoding="utf-8")
    optevolve.export(rule, tmp_path / "mine_optax.py", format="optax")
    compile((tmp_path / "mine_optax.py").read_text(encoding="utf-8"), "mine_optax.py", "exec")


@pytest.mark.parametrize("name", ["g", "tanh", "two words", ""])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Expected an unused identifier"):
        register_operator(Operator(name, 1, "x", "{x}", "nothing"))
