"""A rule as one readable file that needs only torch: the text that runs here, with what it builds upon, and a self-test."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType

from optevolve.compile import bessel, checkpoint, compiled, contract, cpp, draws, packed, reduce, schedulers, settings, work
from optevolve.compile import kernel as kernels
from optevolve.compile.cpp import CppKernel, translate
from optevolve.compile.emit import RuleText, emit_text
from optevolve.compile.optax import optax_source
from optevolve.compile.self_test import self_test
from optevolve.compile.tailor import briefly, imports_for, short_signatures, tailor, without_unused
from optevolve.compile.writing import checked_name, comment, docstring, free_name, names_in, write_python, write_text
from optevolve.errors import ExportError
from optevolve.printable import clipped
from optevolve.space.latex import latex
from optevolve.space.rule import UpdateRule
from optevolve.space.simplify import simplify

__all__ = ["export"]


def export(
    rule: UpdateRule,
    path: str | Path,
    *,
    name: str | None = None,
    provenance: str = "",
    scores: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    format: str = "torch",
) -> Path:
    """Writes the rule as one file: a torch optimizer that needs only torch and tests itself by `python FILE`, an optax one, or LaTeX.

    Args:
        rule: what to write.
        path: of the file; an existing one is replaced, and keeps its permissions. A link is followed.
        name: of the class; None: made from the file's name, and changed if the file has another use for it.
        provenance: where the rule comes from, for the docstring.
        scores: what it reached, by task.
        notes: paragraphs for the docstring, such as how the rule compares with others.
        learning_rate: a peak learning rate that it is known to work with.
        weight_decay: a decoupled weight decay that goes with it.
        format: "torch"; "optax": a function that returns a `GradientTransformation`; "latex": the equation.
    Returns:
        The path.
    Raises:
        ExportError: if name is no identifier or has another use in the file, the path is called as a module that the file imports, the
            format is unknown, the learning rate or weight decay is not finite, or the file cannot be written.
    """
    path = Path(path)
    made = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", path.stem)) or "EvolvedOptimizer"
    wanted = checked_name(name) if name is not None else f"Optimizer{made}" if made[0].isdigit() else made
    about = partial(_about, rule=rule, provenance=provenance, scores=scores, notes=notes)
    if format == "torch":
        wanted = free_name(wanted, _names(rule), made=name is None)
        text = _torch_source(rule, wanted, about(f"{wanted}: an optimizer for torch."), learning_rate, weight_decay)
        write_python(_importable(path, text), text)
    elif format == "optax":
        function = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", wanted).lower()
        function = free_name(function, names_in(optax_source(rule, "_", [])) - {"_"}, made=name is None)
        text = optax_source(rule, function, about(f"{function}: an optimizer for optax."))
        write_python(_importable(path, text), text)
    elif format == "latex":
        write_text(path, f"{comment(about(wanted), '%')}\\[\n{latex(rule)}\n\\]\n")
    else:
        raise ExportError(f"Expected the format torch, optax or latex, got {format!r}.")
    return path


def _torch_source(rule: UpdateRule, name: str, about: list[str], learning_rate: float | None, weight_decay: float) -> str:
    for what, value in (("learning rate", learning_rate or 0.0), ("weight decay", weight_decay)):
        if not math.isfinite(value):
            raise ExportError(
                f"Expected a finite {what} to recommend, got {value}. 'optevolve verify' says whether the run's store is sound."
            )
    lean = emit_text(rule, whole=False, numbers=_NUMBERS)
    kernel = _kernel(lean)
    features, absent = _needs(rule, lean, kernel)

    def piece(module: ModuleType, *also: str) -> str:
        return _body(tailor(inspect.getsource(module), features, absent | frozenset(also)))

    machinery = "\n\n\n".join(
        [
            "# What the steps work on, and what is refused.",
            piece(work),
            piece(settings),
            piece(checkpoint),
            *(["# Operators that look at a whole tensor.", piece(reduce)] if "reduce" not in absent else []),
            *(["# Random tensors.", piece(draws)] if rule_draws(lean) else []),
            *([piece(bessel)] if "bessel_i1e" in lean.numbers + lean.advance else []),
            "# Many small tensors as few large ones.",
            piece(packed),
            *(_kernel_pieces(kernel, piece(kernels)) if kernel else []),
            "# The fused step on accelerators, through torch.compile.",
            piece(compiled),
        ]
    )
    text = "\n\n\n".join(
        part.strip("\n")
        for part in [
            "# The rule.",
            lean.numbers,
            lean.advance,
            "# The optimizer: what torch expects of one.",
            _class(lean, name, features, absent, learning_rate, weight_decay),
            "# The schedule.",
            piece(schedulers, *(() if "momentum" in features else ("momentum",))),
            machinery,
            self_test(rule, name, fused=kernel is not None),
        ]
        if part
    )
    text = _joined(short_signatures(briefly(without_unused(text, {name, "WarmupCosine", *_OVERRIDES}))))
    sources = [inspect.getsource(module) for module in _MODULES]
    imports = imports_for(text, [*sources, "import math"])
    return "\n\n".join([_header(name, about, learning_rate, weight_decay), imports, f'__all__ = ["{name}", "WarmupCosine"]\n', text])


def _names(rule: UpdateRule) -> frozenset[str]:
    """What has a name in the file of any rule, and in this one's."""
    text = emit_text(rule, whole=False, numbers=_NUMBERS)
    return names_in(text.numbers, text.advance, self_test(rule, "_", fused=True)) | _machinery_names() | {"KERNEL", _NUMBERS}


@cache
def _machinery_names() -> frozenset[str]:
    return names_in(*map(inspect.getsource, _MODULES))


def _importable(path: Path, text: str) -> Path:
    """The path, unless Python would take this file for a module that it imports.

    Raises:
        ExportError: if so.
    """
    imports = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom))
    modules = {
        name.split(".")[0]
        for node in imports
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    if path.stem in modules:
        raise ExportError(f"Expected a file that does not hide a module which it imports, got {path.name}. Give another file.")
    return path


def rule_draws(text: RuleText) -> bool:
    """Whether the rule draws random numbers."""
    return bool(text.constants["DRAWS"])


def _needs(rule: UpdateRule, text: RuleText, kernel: CppKernel | None) -> tuple[frozenset[str], frozenset[str]]:
    """What of the machinery the rule needs, and names that its file does without."""
    holds = {
        "draws": rule_draws(text), "decays": text.constants["NEEDS_TOTAL_STEPS"], "momentum": rule.kind != "plain",
        "states": text.constants["STATES"], "kernel": kernel is not None, "elementwise": text.constants["ELEMENTWISE"],
    }  # fmt: skip
    absent = {"bucket"}
    if not rule_draws(text):
        absent |= {"keys", "draws", "DRAWS", "firsts", "first", "seed", "uniforms", "keys_of_p", "random"}
    if "reduce." not in text.advance:
        absent.add("reduce")
    if not text.constants["NEEDS_TOTAL_STEPS"]:
        absent |= {"needs_total_steps", "NEEDS_TOTAL_STEPS"}
    if not text.scalars:
        absent |= {"numbers", "row"}
    return frozenset(feature for feature, holding in holds.items() if holding), frozenset(absent)


def _class(
    text: RuleText, name: str, features: frozenset[str], absent: frozenset[str], learning_rate: float | None, weight_decay: float
) -> str:
    """The text of `RuleOptimizer` as the class of this rule alone."""
    source = inspect.getsource(contract)
    for old, new in _SPELLINGS.items():
        source = source.replace(old, new)
    default = "" if learning_rate is None else f" = {learning_rate!r}"
    source = source.replace("lr: float | Tensor | None = None,", f"lr: float | Tensor{default},")
    source = source.replace("weight_decay: float | None = None,", f"weight_decay: float = {weight_decay!r},")
    source = source.replace("own step; None: the recommended one, 0 for most rules.", "own step.")
    recommended = "" if learning_rate is None else "; the default is the recommended one"
    source = source.replace("one element; None: the recommended one, where there is one.", f"one element{recommended}.")
    if "decays" not in features:
        source = source.replace(
            "needed if the rule has decays; past the end they hold.", "which rules with decays need; this one has none."
        )
    if "momentum" not in features:
        source = source.replace(', "momentum": group["momentum"]}', "}")
    source = tailor(source, features, absent)
    class_text = source[source.index("class RuleOptimizer") :]
    arguments = class_text[class_text.index("    Args:") : class_text.index('    """\n')]
    methods = class_text[class_text.index("    def __init__") :]
    used = {key: value for key, value in text.constants.items() if key in ("RULE", "STATES") or f"self.{key}" in methods}
    constants = "\n".join(f"    {key}{': tuple[str, ...]' if value == () else ''} = {_literal(value)}" for key, value in used.items())
    limits = "\n".join(line for line in source.splitlines() if line.startswith(("_LARGE", "_PATIENCE", "_PLAIN")))
    equation = text.equation.replace("\\", "\\\\")
    docstring = f'    """Follows the rule\n\n{equation}\n\n{arguments}    """'
    return f"{limits}\n\n\nclass {name}(Optimizer):\n{docstring}\n\n{constants}\n\n{methods}"


def _kernel(text: RuleText) -> CppKernel | None:
    states, drawn = text.constants["STATES"], text.constants["DRAWS"]
    assert isinstance(states, tuple)
    assert isinstance(drawn, tuple)
    try:
        return translate(text.advance, len(states), drawn)
    except NotImplementedError:  # rows, columns, orthogonalisation: torch's own kernels are the fast way
        return None


def _kernel_pieces(kernel: CppKernel, machinery: str) -> list[str]:
    """The machinery of the fused step: the text that is compiled, and how."""
    values = {key: value for key, value in kernel._asdict().items() if f"    {key}: " in machinery}
    code = values.pop("text")
    long = "  # noqa: E501" if max(map(len, code.splitlines())) > 140 else ""
    fields = "".join(f"    {key}={value!r},\n" for key, value in values.items())
    return [
        "# The fused step on the CPU: `advance` in C++, compiled when first needed and kept in a folder for other processes.",
        machinery,
        f'KERNEL = FusedStep(\n{fields}    text="""\\\n{code}""",{long}\n)',
    ]


def _literal(value: object) -> str:
    """As `repr`, with double quotes."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _body(source: str) -> str:
    """A module's text without its docstring, imports and `__all__`."""
    dropped: set[int] = set()
    for node in ast.parse(source).body:
        named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if named or docstring or isinstance(node, ast.Import | ast.ImportFrom):
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in dropped).strip("\n")


def _joined(text: str) -> str:
    """Headings stand right above what they head; two blank lines between definitions."""
    return re.sub(r"(?m)^(# [A-Z][^\n]*)\n{3}(?=\S)", r"\1\n", text)


def _header(name: str, about: list[str], learning_rate: float | None, weight_decay: float) -> str:
    arguments = f"model.parameters(), lr={'1e-3' if learning_rate is None else f'{learning_rate:g}'}"
    arguments += ", total_steps=10_000" + (f", weight_decay={weight_decay:g}" if weight_decay else "")
    return docstring(
        [
            *about,
            "",
            f"    optimizer = {name}({arguments})",
            "    scheduler = WarmupCosine(optimizer, total_steps=10_000, warmup=500)  # stepped after each optimizer.step()",
            "",
            "Needs only torch. The rule comes first, then the optimizer class, the schedule, and what they build upon. Running this file",
            "replays a trajectory that was recorded from another implementation of the rule.",
        ]
    )


def _about(
    title: str, rule: UpdateRule, provenance: str = "", scores: Mapping[str, float] | None = None, notes: Sequence[str] = ()
) -> list[str]:
    """What a file says of its rule, line by line; the rule in one of them, so that it can be copied."""
    lines = [title, "", f"Rule: {rule}"]
    if (shorter := simplify(rule)) != rule:
        lines += [f"Simplified: {shorter}"]
    if provenance:
        lines += ["", *textwrap.wrap(f"Provenance: {clipped(provenance, _WORDS)}", 128)]
    for note in notes:
        lines += ["", *textwrap.wrap(clipped(note, _WORDS), 128)]
    if scores:
        lines += ["", "Scores:", *(f"    {clipped(task, _NAME)}: {score:.4g}" for task, score in scores.items())]
    return lines


_WORDS, _NAME = 4000, 500  # characters of what others say of a rule, and of a name among it
_NUMBERS = "numbers_at"
_MODULES = (contract, work, settings, checkpoint, reduce, draws, bessel, packed, cpp, kernels, compiled, schedulers)
_OVERRIDES = ("step", "add_param_group", "load_state_dict", "get_lr", "restype")

# How the class of one rule says what `RuleOptimizer` says for any.
_SPELLINGS = {
    "self._kernel(group, work, *types)": 'loaded(KERNEL, *types, group["maximize"])',
    "type(self).advance": "advance",
    "self.advance(": "advance(",
    "add_param_group(self, param_group)": "super().add_param_group(param_group)",
    "self.numbers": _NUMBERS,
    " and self.NEEDS_TOTAL_STEPS": "",
    " and not self._flat": "",
}
