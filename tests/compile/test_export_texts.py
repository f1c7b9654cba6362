"""Whatever texts a run holds, and whatever a class is called: an exported file is what it is meant to be, and no text runs."""

import ast
import builtins
import random
import runpy
from pathlib import Path

import pytest

from optevolve.compile import export
from optevolve.compile.writing import comment, docstring, one_line
from optevolve.errors import ExportError
from optevolve.space import parse

RULE = parse("g")
PIECES = [
    '"', "'", '"""', "'''", '""""', "\\", "\\\\", '\\"', "\n", "\r", "\r\n", "\t", "\x00", "\x0b", "\x0c", "\x1a", "\x1c", "\x85",
    "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\ud800", "\udfff", "\U000e0001", "\U0001f600",
    "\\N{BULLET}", "\\N{", "\\x4", "\\u12",
    "\\U0011ffff", "\\0", "%", "%s", "%(x)d", "{", "}", "{name}", "{0!r}", "{{", "#", "# type: ignore", "\\]", "\\end{document}", "$",
    "raise SystemExit(3)",
    '"""\nraise SystemExit(3)\n"""', "\nraise SystemExit(3)\n", "\\\nraise SystemExit(3)", "w" * 3000, " " * 300, "é", "",
]  # fmt: skip


def texts(count: int) -> list[str]:
    draw = random.Random(4)
    return [*PIECES, *("".join(draw.choices(PIECES, k=draw.randint(2, 6))) for _ in range(count))]


@pytest.mark.parametrize("text", [pytest.param(text, id=str(number)) for number, text in enumerate(texts(250))])
def test_a_docstring_and_a_comment_hold_any_text(text: str) -> None:
    for source in (docstring([text]), docstring([f"A: {text}", text, "", f"{text}."])):
        (node,) = ast.parse(source).body
        assert isinstance(node, ast.Expr)
        assert isinstance(node.value, ast.Constant)
        assert one_line(text) in node.value.value
        compile(source, "file", "exec")
        source.encode()
    marked = comment([text, "end"], "%")
    marked.encode()
    assert all(line.startswith("% ") for line in marked.splitlines())
    assert len(marked.splitlines()) == 1 + bool(text)


def test_an_escape_tells_the_character() -> None:
    for character in ("\n", "\x00", "\u2028", "\U000e0001", "\ud800"):
        assert ast.literal_eval(f'"{one_line(character)}"') == character


@pytest.mark.parametrize("form", ["torch", "optax", "latex"])
def test_texts_do_not_break_out_of_a_file(form: str, tmp_path: Path) -> None:
    every = texts(4)
    path = export(
        RULE, tmp_path / "found.py", name="Found", format=form,
        provenance="".join(every), notes=every, scores=dict.fromkeys(every, 0.5),
    )  # fmt: skip
    plain = export(RULE, tmp_path / "plain.py", name="Found", format=form)
    written, expected = path.read_text(encoding="utf-8"), plain.read_text(encoding="utf-8")
    if form == "latex":
        assert [line for line in written.split("\n") if not line.startswith("%")] == [
            line for line in expected.split("\n") if not line.startswith("%")
        ]
        return
    tree, other = (ast.parse(compile_text) for compile_text in (written, expected))
    assert ast.dump(ast.Module(tree.body[1:], [])) == ast.dump(ast.Module(other.body[1:], [])), "the docstring alone differs"
    said = ast.get_docstring(tree, clean=False) or ""
    assert all(f"    {one_line(text)}: 0.5" in said for text in every)
    if form == "torch":
        assert "Found" in runpy.run_path(str(path), run_name="found")


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
