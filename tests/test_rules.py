"""Every public function of a rule takes it in every form, and says what it takes."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import optevolve as oe
from optevolve import rules
from optevolve.library import ZOO

ASKED = [name for name in rules.__all__ if name != "export"]
MORE = {"nearly_same": ("momentum: g",), "trajectory": (0.1, 5)}
FORMS = {
    "opt10": ("opt10", " OPT10 ", ZOO["opt10"], oe.zoo["opt10"], str(oe.zoo["opt10"]), "Nest ~ tanh([max(a6, a10)]*[arcsinh(QHM(v))])"),
    "native": ("nesterov: erf(g) * a4", oe.parse("nesterov: erf(g) * a4")),
    "paper": ("Nest ~ bessel_i1e(g)", oe.parse_paper("Nest ~ bessel_i1e(g)"), oe.parse("nesterov: bessel_i1e(g)")),
    "schedule": ("L1", oe.parse(str(oe.simplify("L1")))),
}


def shown(value: object) -> str:
    return re.sub(r"0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("name", ASKED)
def test_a_rule_is_the_same_in_every_form(name: str) -> None:
    function = getattr(oe, name)
    for key in ("opt10", "native", "paper"):
        forms = FORMS[key][:5]
        assert len({shown(function(form, *MORE.get(name, ()))) for form in forms}) == 1, key
    assert oe.nearly_same("adam", ZOO["adamw"])


@pytest.mark.parametrize("name", rules.__all__)
@pytest.mark.parametrize("given", ["opt66", "g +", "runs/demo", 5, None, Path("opt6"), ["opt6"]])
def test_what_is_no_rule_is_one_message(name: str, given: object, tmp_path: Path) -> None:
    more = (tmp_path / "made.py",) if name == "export" else MORE.get(name, ())
    with pytest.raises(oe.OptevolveError) as caught:
        getattr(oe, name)(given, *more)
    assert "\n" not in str(caught.value).strip()
    assert not list(tmp_path.iterdir())


def test_every_function_that_takes_a_rule_takes_all_forms() -> None:
    """By its signature: a function of the public face whose argument is called a rule is one of these, or is known to take them."""
    taking = {
        name
        for name in oe.__all__
        if inspect.isfunction(function := getattr(oe, name)) and {"rule", "a"} & set(inspect.signature(function).parameters)
    }
    assert taking == {*rules.__all__, "build"}
    for name in (*taking, "compare"):
        function = getattr(oe, name)
        first = next(iter(inspect.signature(function).parameters.values()))
        assert "AnyRule" in str(first.annotation), name
        assert inspect.getdoc(function), name


def test_expressions_are_simplified_and_converted_too() -> None:
    node = oe.parse("g * 1").expression
    assert oe.simplify(node) == oe.parse("g").expression
    assert str(oe.to_sympy(node)) == "g"


@pytest.mark.parametrize("given", ["adamw", ZOO["adamw"], oe.zoo["adamw"], oe.simplify("adamw"), oe.schedule_of("adamw")[1]])
def test_what_goes_with_a_rule_of_the_zoo_comes_along(given: object, tmp_path: Path) -> None:
    made = oe.build(given, [torch.nn.Parameter(torch.ones(1))], 0.1)
    assert made.param_groups[0]["weight_decay"] == 0.01
    assert oe.build(given, [torch.nn.Parameter(torch.ones(1))], 0.1, weight_decay=0.0).param_groups[0]["weight_decay"] == 0
    text = oe.export(given, tmp_path / "mine.py").read_text(encoding="utf-8")
    assert "weight_decay: float = 0.01" in text
    assert "weight_decay: float = 0.0," in oe.export(given, tmp_path / "none.py", weight_decay=0.0).read_text(encoding="utf-8")


def test_an_export_by_name_is_that_of_the_command(tmp_path: Path) -> None:
    from optevolve.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["export", "lion", "-o", str(tmp_path / "one.py")])
    assert not caught.value.code
    one = (tmp_path / "one.py").read_text(encoding="utf-8")
    assert oe.export("lion", tmp_path / "two.py", name="One").read_text(encoding="utf-8") == one
    assert f"lr: float | Tensor = {ZOO['lion'].learning_rate!r}" in one


def test_rules_are_asked_without_torch() -> None:
    code = "import sys, optevolve as oe\noe.latex('opt6'), oe.explain('opt6'), oe.check_integrity('g')\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout == "False\n"
