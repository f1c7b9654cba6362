"""Source text with what a rule does not need left out; what is left reads as if it had been written for the rule.

Lines of the modules that go into exported files say when they go along:

- `# export if draws`, `# export unless draws`, `# export never`: the statement that begins on the line, or the line of a list or decorator;
- `# export inline if draws`: a statement whose condition holds in every file that has it, so that only its body goes along.

Names that are absent vanish as arguments, parameters, elements and targets of assignments. Then definitions that nothing refers to go.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache

__all__ = ["briefly", "imports_for", "short_signatures", "tailor", "without_unused"]

_LONGEST = 140
_GONE = "(left out)"

_Located = ast.expr | ast.arg | ast.keyword
_MARK = re.compile(r" *# export (?:(never)|(inline )?(if|unless) (\w+))$")


@lru_cache(maxsize=256)
def tailor(source: str, features: frozenset[str], absent: frozenset[str]) -> str:
    """The text for a file that has these features and lacks these names.

    Args:
        source: Python text.
        features: words that hold of the rule, such as draws.
        absent: variables, parameters and attributes of self that the file does without.
    """
    lines, inlined = _marked(source, features)
    dropped = {i for i, line in lines.items() if line is None}
    for first, last in inlined:
        dropped.add(first)
        for i in range(first + 1, last + 1):
            lines[i] = (lines[i] or "").removeprefix("    ")
    text = "\n".join(line for i, line in sorted(lines.items()) if i not in dropped and line is not None)
    text = _without_names(text, absent)
    # what docstrings say about arguments: a line and those that go on, deeper
    text = re.sub(rf"(?m)^( +)(?:{'|'.join(sorted(absent))}): .*\n(?:\1 +.*\n)*", "", text)
    return _tidy(text)


def _marked(source: str, features: Collection[str]) -> tuple[dict[int, str | None], list[tuple[int, int]]]:
    """Lines by number, None for those that are left out, and the ranges of statements of which only the body stays."""
    lines: dict[int, str | None] = dict(enumerate(source.splitlines(), 1))
    starts: dict[int, ast.stmt] = {}
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.stmt):
            starts.setdefault(found.lineno, found)
    inlined = []
    for number, line in list(lines.items()):
        mark = _MARK.search(line or "")
        if line is None or not mark:
            continue
        never, inline, condition, feature = mark.groups()
        lines[number] = line[: mark.start()]
        node = starts.get(number)
        if never or (feature in features) != (condition == "if"):
            for i in _range(node, line) if node else [number]:
                lines[i] = None
            above = number - 1
            while node and re.match(r"\s*#", lines.get(above) or ""):
                lines[above] = None
                above -= 1
        elif inline and node:
            inlined.append((number, node.end_lineno or number))
    return lines, inlined


def _first_line(node: ast.stmt) -> int:
    first: int = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return first


def _range(node: ast.stmt, line: str) -> range:
    """Lines of a statement; of an `elif` its own branch alone."""
    last = node.body[-1].end_lineno if isinstance(node, ast.If) and line.lstrip().startswith("elif") else node.end_lineno
    return range(_first_line(node), (last or node.lineno) + 1)


def _without_names(source: str, absent: frozenset[str]) -> str:
    """The text without these names."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    data = source.encode()

    def start(node: _Located) -> int:
        return starts[node.lineno - 1] + node.col_offset

    def end(node: _Located) -> int:
        return starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    cuts: list[tuple[int, int]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_absent(
            node.targets[0] if isinstance(node, ast.Assign) else node.target, absent
        ):
            cuts.append((starts[node.lineno - 1], starts[node.end_lineno or node.lineno]))
            continue
        for items in _sequences(node):
            gone = [_is_absent(item[0], absent) for item in items]
            for i, item in enumerate(items):
                if not gone[i]:
                    continue
                kept_before = next((items[j] for j in range(i - 1, -1, -1) if not gone[j]), None)
                if kept_before is not None:
                    cuts.append((end(kept_before[-1]), end(item[-1])))
                else:
                    cuts.append((start(item[0]), start(items[i + 1][0]) if i + 1 < len(items) else end(item[-1])))
    for first, last in sorted(_merged(cuts), reverse=True):
        data = data[:first] + data[last:]
    return data.decode()


def _merged(cuts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(cuts):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _sequences(node: ast.AST) -> Iterator[list[tuple[_Located, ...]]]:
    """Items between commas, each as the nodes from its first to its last; the first one tells whether it goes."""
    if isinstance(node, ast.Call):
        passed: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        yield [(argument,) for argument in sorted(passed, key=lambda a: (a.lineno, a.col_offset))]
    elif isinstance(node, ast.FunctionDef):
        arguments, defaults = node.args.args, node.args.defaults
        given = [None] * (len(arguments) - len(defaults)) + list(defaults)
        yield [(arg, *([default] if default else [])) for arg, default in zip(arguments, given, strict=True)]
        keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        yield [(arg, *([default] if default else [])) for arg, default in keywords]
    elif isinstance(node, ast.Tuple | ast.List):
        yield [(element,) for element in node.elts]


def _is_absent(node: ast.AST, absent: frozenset[str]) -> bool:
    if isinstance(node, ast.Starred):
        return _is_absent(node.value, absent)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "at":  # a part of what is absent
        return _is_absent(node.args[-1], absent)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr in absent
    name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg | ast.keyword) else None
    return name in absent


def without_unused(source: str, kept: Collection[str]) -> str:
    """The text without functions, classes, constants and methods that nothing refers to.

    Args:
        source: Python text.
        kept: names that are used from outside.
    """
    tree = ast.parse(source)
    owners = {member: node for node in tree.body if isinstance(node, ast.ClassDef) for member in node.body}
    used = {node: _names(node) for node in [*owners, *(node for node in tree.body if not isinstance(node, ast.ClassDef))]}
    for cls in dict.fromkeys(owners.values()):  # after their members: what goes with these no longer counts in their class
        members = (used[member] for member in cls.body)
        used[cls] = sum(members, sum(map(_names, [*cls.bases, *cls.keywords, *cls.decorator_list]), Counter[str]()))
    total = sum((used[node] for node in tree.body), Counter[str]())
    gone: set[ast.stmt] = set()
    while True:
        before = len(gone)
        for node, own in used.items():
            name = _defined(node)
            if name is None or name in kept or re.fullmatch("__.*__", name) or total[name] > own[name]:
                continue
            if node in gone or owners.get(node) in gone:
                continue
            gone.add(node)
            total -= own
            if node in owners:
                used[owners[node]] -= own
        if len(gone) == before:
            break
    lines = {line for node in gone for line in range(_first_line(node), (node.end_lineno or node.lineno) + 1)}
    return _tidy("\n".join(line for i, line in enumerate(source.splitlines(), 1) if i not in lines))


def _names(tree: ast.AST) -> Counter[str]:
    """How often each name is read, as a variable or an attribute."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
    return found


def _defined(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and len(node.targets) == 1:
        return node.targets[0].id
    return None


def imports_for(source: str, modules: Collection[str]) -> str:
    """The imports of these texts of modules that the source needs, merged and in order; none of the package's own."""
    used = _names(ast.parse(source))
    found: dict[str, set[str]] = {}
    for node in (node for module in modules for node in _imports(module)):
        if isinstance(node, ast.Import):
            found |= {f"import {alias.name}": set() for alias in node.names if used[alias.asname or alias.name]}
        elif node.module and not node.module.startswith("optevolve"):
            names = {alias.name for alias in node.names if used[alias.name] or node.module == "__future__"}
            if names:
                found.setdefault(f"from {node.module} import ", set()).update(names)
    blocks: list[list[str]] = [[], [], []]
    for line in sorted(found, key=lambda line: (line.startswith("from"), line)):
        block = 0 if "__future__" in line else 2 if line.split()[1].split(".")[0] == "torch" else 1
        blocks[block].append(line + ", ".join(sorted(found[line], key=lambda n: (not n.isupper(), not n[:1].isupper(), n))))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def briefly(source: str) -> str:
    """The text with the first paragraph alone of every function's docstring: the class says what its arguments are."""
    lines = source.splitlines()
    for node in reversed([node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)]):
        first, last = node.body[0].lineno - 1, (node.body[0].end_lineno or 0) - 1
        blank = next((i for i in range(first, last) if not lines[i].strip()), None)
        if blank is not None:
            lines[blank - 1 : last + 1] = [lines[blank - 1] + '"""', *[_GONE] * (last - blank + 1)]
    return "\n".join(line for line in lines if line is not _GONE) + "\n"


def short_signatures(source: str) -> str:
    """The text with a function's arguments on one line where they fit, now that some have gone."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or not lines[node.lineno - 1].endswith("("):
            continue
        head, last = lines[node.lineno - 1], next(i for i in range(node.lineno, len(lines)) if lines[i].lstrip().startswith(")"))
        arguments = " ".join(line.strip() for line in lines[node.lineno : last]).rstrip(",")
        if len(whole := head + arguments + lines[last].lstrip()) <= _LONGEST:
            lines[node.lineno - 1 : last + 1] = [whole, *[_GONE] * (last - node.lineno + 1)]
        elif len(inner := " " * (node.col_offset + 4) + arguments) <= _LONGEST:
            lines[node.lineno : last] = [inner, *[_GONE] * (last - node.lineno - 1)]
    return "\n".join(line for line in lines if line is not _GONE) + "\n"


@lru_cache(maxsize=64)
def _imports(module: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in ast.parse(module).body if isinstance(node, ast.Import | ast.ImportFrom))


def _tidy(source: str) -> str:
    """One blank line within definitions, two between them, none where a block begins."""
    text = re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+(?=[ \t])", "\n\n", source)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"
