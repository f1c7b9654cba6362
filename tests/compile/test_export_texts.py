"""Whatever texts a run holds, and whatever a class is called: an exported file is what it is meant to be, and no text runs.

The whole, 20,000 texts in every field of every format: OPTEVOLVE_TEST_EXPORTS=20000 pytest tests/compile/test_export_texts.py
"""

import ast
import builtins
import os
import random
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optevolve.compile import export
from optevolve.compile.writing import comment, docstring, one_line
from optevolve.config_text import preset
from optevolve.contestants import job_id
from optevolve.delivery import delivered
from optevolve.errors import ExportError
from optevolve.printable import clipped
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status
from optevolve.space import parse

WANTED = os.environ.get("OPTEVOLVE_TEST_EXPORTS")
TEXTS = int(WANTED or "300")
BATCH = 100  # texts in one file
pytestmark = pytest.mark.timeout(0 if WANTED else 300)
FORMATS = ["torch", "optax", "latex"]
RULE = parse("g")
PIECES = [
    '"', "'", '"""', "'''", '""""', "\\", "\\\\", '\\"', "\n", "\r", "\r\n", "\t", "\x00", "\x0b", "\x0c", "\x1a", "\x1c", "\x85",
    "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\ud800", "\udfff", "\U000e0001", "\U0001f600",
    "\\N{BULLET}", "\\N{", "\\x4", "\\u12",
    "\\U0011ffff", "\\0", "%", "%s", "%(x)d", "{", "}", "{name}", "{0!r}", "{{", "#", "# type: ignore", "\\]", "\\end{document}", "$",
    "raise SystemExit(3)", "\x1b[2J", "\x9b31m", "\u2066", "class", "import os", "/", "../", "w", "_",
    '"""\nraise SystemExit(3)\n"""', "\nraise SystemExit(3)\n", "\\\nraise SystemExit(3)", "w" * 3000, " " * 300, "é", "",
]  # fmt: skip


def texts(count: int) -> list[str]:
    draw = random.Random(4)
    return [*PIECES, *("".join(draw.choices(PIECES, k=draw.randint(2, 6))) for _ in range(count - len(PIECES)))]


def batches(count: int) -> Iterator[list[str]]:
    every = texts(count)
    return (every[start : start + BATCH] for start in range(0, len(every), BATCH))


def test_a_docstring_and_a_comment_hold_any_text() -> None:
    for text in texts(TEXTS):
        for source in (docstring([text]), docstring([f"A: {text}", text, "", f"{text}."])):
            (node,) = ast.parse(source).body
            assert isinstance(node, ast.Expr), text
            assert isinstance(node.value, ast.Constant), text
            assert one_line(text) in node.value.value, text
            compile(source, "file", "exec")
            source.encode()
        marked = comment([text, "end"], "%")
        marked.encode()
        assert all(line.startswith("% ") for line in marked.splitlines()), text
        assert len(marked.splitlines()) == 1 + bool(text), text


def test_an_escape_tells_the_character() -> None:
    for character in ("\n", "\x00", "\u2028", "\U000e0001", "\ud800"):
        assert ast.literal_eval(f'"{one_line(character)}"') == character


def code_of(form: str, text: str) -> str:
    """What is left of an exported file without the words about it."""
    if form == "latex":
        return "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    return ast.dump(ast.Module(ast.parse(text).body[1:], []))


@pytest.fixture(scope="module", params=FORMATS)
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A format, and what the file of a rule without any words about it has in it."""
    path = export(RULE, tmp_path_factory.mktemp("plain") / "plain.py", name="Found", format=request.param)
    return request.param, code_of(request.param, path.read_text(encoding="utf-8"))


def test_texts_do_not_break_out_of_a_file(plain: tuple[str, str], tmp_path: Path) -> None:
    form, code = plain
    for batch in batches(TEXTS):
        path = export(
            RULE, tmp_path / "found.py", name="Found", format=form,
            provenance="".join(batch), notes=batch, scores=dict.fromkeys(batch, 0.5),
        )  # fmt: skip
        written = path.read_text(encoding="utf-8")
        assert code_of(form, written) == code, "the words alone differ"
        assert len(written) < 500_000
        said = (written if form == "latex" else ast.get_docstring(ast.parse(written), clean=False)) or ""
        for text in batch:
            assert f"    {one_line(clipped(text, 500))}: 0.5" in said, text
    if form == "torch":
        assert "Found" in runpy.run_path(str(path), run_name="found")
    assert [file.name for file in tmp_path.iterdir()] == ["found.py"]


def refused(*given: Any, **more: Any) -> str | None:
    """What an export is refused for; None if it is not."""
    try:
        export(*given, **more)
    except ExportError as error:
        return str(error)
    return None


def test_texts_are_names_of_classes_and_files_or_refused(plain: tuple[str, str], tmp_path: Path) -> None:
    form, code = plain
    kept = tmp_path / "kept.py"
    kept.write_text("before", encoding="utf-8")
    every = {"torch": 100, "optax": 10, "latex": 1}[form]
    first = export(RULE, tmp_path / "first.py", name="Found", format=form)
    statements = 0 if form == "latex" else len(ast.parse(first.read_text(encoding="utf-8")).body)
    first.unlink()
    for number, text in enumerate(texts(TEXTS)):
        if (refusal := refused(RULE, kept, name=text, format=form)) is None:
            assert text.isidentifier(), text
            written = kept.read_text(encoding="utf-8")
            assert code_of(form, written) == code if form == "latex" else len(ast.parse(written).body) == statements, text
            kept.write_text("before", encoding="utf-8")
        else:
            assert len(refusal) < 1000, text
            assert kept.read_text(encoding="utf-8") == "before", text
        if number % every:
            continue
        name = text.replace("/", "")
        path = tmp_path / "new" / f"{name}.py" if number % 3 else tmp_path / f"{name}.py"
        if (refusal := refused(RULE, path, format=form)) is None:
            code_of(form, path.read_text(encoding="utf-8"))
            path.unlink()
        else:
            assert len(refusal) < 10_000 + 6 * len(name), text
        assert [file.name for file in tmp_path.iterdir()] == ["kept.py"], text


def test_what_a_store_says_does_not_break_out_of_a_file(plain: tuple[str, str], tmp_path: Path) -> None:
    """Names of tasks, of jobs and of contestants, as `optevolve export RUN` and a run itself hand them on."""
    form, code = plain
    quick = preset("quick")
    chosen = texts(TEXTS)[:: 20 if WANTED else 40]
    for number, text in enumerate(chosen):
        other = chosen[-number]
        own = Job(text, "g", other, quick.evolution.protocol, 0)
        measurements = [Measurement("evolution", own, Outcome(Status.COMPLETED, 0.5, 0.1), Proposal(text, "g", "{}", "evolution"))]
        for stage, split in (("tune", Split.VALID), ("choose", Split.VALID), ("evaluate", Split.TEST)):
            for name, rule in ((f"evolved-{text}", "g"), ("adamw", "v_hat / sqrt(s_hat)")):
                job = Job(job_id(stage, name, other, 0), rule, other, quick.evaluation.protocol, 0, split)
                measurements.append(Measurement(stage, job, Outcome(Status.COMPLETED, 0.5, 0.1, reason=text)))
        found = delivered(measurements, replace(quick, task=other), True)
        assert found is not None, text
        path = export(
            RULE, tmp_path / "found.py", name="Found", format=form,
            provenance=found.provenance, notes=found.notes, scores=found.scores,
        )  # fmt: skip
        assert code_of(form, path.read_text(encoding="utf-8")) == code, text


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_python_does_not_spell_are_refused(value: float, tmp_path: Path) -> None:
    for given in ({"learning_rate": value}, {"weight_decay": value}):
        with pytest.raises(ExportError, match="Expected a finite"):
            export(RULE, tmp_path / "found.py", **given)
    assert not list(tmp_path.iterdir())


NAMES = [
    "WarmupCosine",
    "Optimizer",
    "advance",
    "torch",
    "Tensor",
    "print",
    "float",
    "self_test",
    "RECORDED",
    "w",
    "math",
    "__all__",
    "__name__",
]


@pytest.mark.parametrize("name", [*NAMES, "class", "None", "a b", "1st", "Ünï", "", "x;y", "x\n", "a.b", "\ud800", "f(x)"])
def test_names_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "found.py"
    with pytest.raises(ExportError, match=r"^Expected [^\n]*, got [^\n]*\. Give another name\.$"):
        export(RULE, path, name=name)
    assert not path.exists()


@pytest.mark.parametrize("name", ["Advance", "Numbers", "Jax", "Class", "Optax", "Print"])
def test_names_of_functions_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Give another name"):
        export(RULE, tmp_path / "found.py", name=name, format="optax")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("optimizer.py", "EvolvedOptimizer"),
        ("value_error.py", "EvolvedValueError"),
        ("class.py", "Class"),
        ("2nd.py", "Optimizer2nd"),
    ],
)
def test_names_made_from_files_have_no_other_use(file: str, name: str, tmp_path: Path) -> None:
    path = export(RULE, tmp_path / file)
    held = runpy.run_path(str(path), run_name="found")
    assert held["__all__"] == [name, "WarmupCosine"]
    assert held[name].__mro__[1].__module__ == "torch.optim.optimizer"


@pytest.mark.parametrize(
    ("file", "name"), [("class.py", "evolved_class"), ("advance.py", "evolved_advance"), ("optimizer.py", "optimizer")]
)
def test_functions_made_from_files_have_no_other_use(file: str, name: str, tmp_path: Path) -> None:
    tree = ast.parse(export(RULE, tmp_path / file, format="optax").read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert defined.count(name) == 1
    assert not hasattr(builtins, name)


@pytest.mark.parametrize(("file", "form"), [("torch.py", "torch"), ("jax.py", "optax")])
def test_a_file_does_not_hide_what_it_imports(file: str, form: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"hide a module which it imports, got {file}"):
        export(RULE, tmp_path / file, format=form)
    assert not (tmp_path / file).exists()
