"""The arrows of docs/architecture.md: imports go one way, heavy libraries stay where they belong, public names are documented."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import optevolve

PACKAGE = Path(optevolve.__file__).parent

# Lowest first. A part may import from lower rows and from itself; parts that share a row do not know each other.
LAYERS: list[set[str]] = [
    {"errors", "printable", "config", "statistics", "number_text"},
    {"records", "task_spec", "files", "config_bounds"},
    {"schedule", "contestants"},
    {"final", "run_size"},
    {"space"},
    {"integrity", "algorithms", "compile", "library"},
    {"optim", "rules", "standing", "verdict"},
    {"tasks", "delivery"},
    {"training"},
    {"racing", "several", "floors"},
    {"surrogate"},
    {"eliminate"},
    {"evaluation"},
    {"config_check"},
    {"config_text"},
    {"final_tasks"},
    {"run", "reporting", "progress"},
    {"listening", "results"},
    {"pipeline"},
    {"calibration", "comparison"},
    {"cli"},
]
# Siblings of a row that one may import all the same, each with the reason.
EXCEPTIONS = {
    ("__init__", "*"): "the package's own face names everything, loaded on use",
    ("__main__", "*"): "starts the command line",
    ("testing", "*"): "offered to users' tests; nothing imports it",
}
LAYER = {part: number for number, row in enumerate(LAYERS) for part in row}

# Library → files (or folders) of the package that may import it.
CONFINED = {
    "ray": ["run/ray.py"],
    "sqlalchemy": ["run/store.py", "run/store/", "run/migrations/"],
    "alembic": ["run/store.py", "run/store/", "run/migrations/"],
    "typer": ["cli.py", "cli/"],
    "jinja2": ["reporting/"],
    "matplotlib": ["reporting/", "cli.py", "cli/"],
    "datasets": ["tasks/"],
    "timm": ["tasks/"],
    "sklearn": ["tasks/"],
    "pickle": [],
}
FREE_OF_TORCH = [
    "errors.py",
    "config.py",
    "records.py",
    "task_spec.py",
    "config_bounds.py",
    "config_check.py",
    "run_size.py",
    "config_text.py",
    "final_tasks.py",
    "integrity.py",
    "space/",
    "algorithms/",
    "library/",
]
FREE_OF_TORCH += ["progress.py", "reporting/", "contestants.py", "final.py", "rules.py", "standing.py", "verdict.py", "delivery.py"]

FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First component below the package: 'space' for space/text.py, 'cli' for cli.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> list[tuple[str, int]]:
    """Dotted names imported by a file, those inside functions and TYPE_CHECKING blocks included, with their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def wrong_arrows(part: str, imported: list[tuple[str, int]]) -> list[str]:
    if (part, "*") in EXCEPTIONS:
        return []
    wrong = []
    for name, line in imported:
        pieces = name.split(".")
        if pieces[0] != "optevolve" or len(pieces) == 1:
            continue
        target = pieces[1]
        if target == part or target.startswith("__"):
            continue
        if target not in LAYER:
            wrong.append(f"line {line}: '{name}' is no known part; give it a row in LAYERS")
        elif LAYER[target] >= LAYER[part]:
            wrong.append(f"line {line}: {part} (row {LAYER[part]}) imports {name} (row {LAYER[target]})")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in LAYER or (part, "*") in EXCEPTIONS, f"'{part}' has no row in LAYERS"
    assert wrong_arrows(part, imports_of(path)) == []


def test_wrong_arrows_are_seen() -> None:
    assert wrong_arrows("space", [("optevolve.compile.build", 3)])
    assert wrong_arrows("algorithms", [("optevolve.library", 3)])
    assert wrong_arrows("space", [("optevolve.space.text", 3), ("optevolve.errors.ParseError", 4), ("numpy", 5)]) == []


@pytest.mark.parametrize("library", CONFINED)
def test_library_stays_where_it_belongs(library: str) -> None:
    strays = [
        f"{inside}:{line}"
        for path in FILES
        for inside in [path.relative_to(PACKAGE).as_posix()]
        for name, line in imports_of(path)
        if name.split(".")[0] == library and not inside.startswith(tuple(CONFINED[library]))
    ]
    assert strays == []


def test_every_library_that_is_imported_is_declared() -> None:
    """What only happens to be installed, because a dependency needs it, may be gone tomorrow."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(text for extra in ("data", "vision", "ray") for text in project["optional-dependencies"][extra]),
    ]
    known = {re.split(r"[^\w-]", text)[0].lower().replace("-", "_") for text in declared}
    known = {{"scikit_learn": "sklearn", "pillow": "pil"}.get(name, name) for name in known}
    brought = {"pyarrow": "datasets", "huggingface_hub": "datasets", "fsspec": "datasets", "pydantic_core": "pydantic", "sympy": "torch"}
    imported = {name.split(".")[0] for path in FILES for name, _ in imports_of(path)} - {
        "optevolve",
        "__future__",
        *sys.stdlib_module_names,
    }
    assert sorted(name for name in imported if brought.get(name, name).lower() not in known) == []


def test_torch_stays_out_of_the_light_parts() -> None:
    strays = [
        f"{inside}:{line}"
        for path in FILES
        for inside in [path.relative_to(PACKAGE).as_posix()]
        for name, line in imports_of(path)
        if inside.startswith(tuple(FREE_OF_TORCH)) and name.split(".")[0] in {"torch", "torchvision"}
    ]
    assert strays == []


def test_space_and_search_load_nothing_heavy() -> None:
    heavy = {"torch", "pydantic", "sqlalchemy", "sklearn", "matplotlib", "pandas", "rich", "typer", "ray", "sympy"}
    code = f"import sys, optevolve, optevolve.space, optevolve.algorithms; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented() -> None:
    assert sorted(optevolve.__all__) == sorted({*optevolve._HOMES, "__version__"})
    assert 1 <= len(optevolve.__all__) <= 40
    for name in optevolve.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(optevolve, name)), f"optevolve.{name} has no docstring"


def test_dir_help_and_signatures_show_the_public_face() -> None:
    """In a fresh interpreter, and in one in which everything is loaded: no module stands in a function's place."""
    loaded = "import pkgutil, importlib, optevolve as oe\nfor found in pkgutil.iter_modules(oe.__path__, 'optevolve.'):\n"
    loaded += "    found.name == 'optevolve.__main__' or importlib.import_module(found.name)\n"
    asks = "import inspect, pydoc\nassert sorted(dir(oe)) == sorted(oe.__all__), dir(oe)\n"
    asks += "for name in 'search resume compare evaluate report calibrate export build parse'.split():\n"
    asks += "    function = getattr(oe, name); assert inspect.isfunction(function), name\n"
    asks += "    assert 'args' not in inspect.signature(function).parameters, name\n"
    asks += "assert 'task' in inspect.signature(oe.search).parameters and 'tasks' in inspect.signature(oe.evaluate).parameters\n"
    asks += "assert oe.zoo['nesterov'] == oe.parse('nesterov: g') and len(oe.zoo) > 20 and 'opt6' in oe.zoo and 'opt6' in repr(oe.zoo)\n"
    asks += "page = pydoc.plain(pydoc.render_doc(oe))\nassert 'search(task' in page and 'import_module' not in page\n"
    for start in ("import optevolve as oe\n", loaded):
        subprocess.run([sys.executable, "-c", start + asks], check=True, timeout=240)


def test_unknown_public_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = optevolve.no_such_name


def test_type_checkers_see_the_public_names() -> None:
    """The names under TYPE_CHECKING are those that are loaded on use, from the same modules."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.asname or alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == optevolve._HOMES
