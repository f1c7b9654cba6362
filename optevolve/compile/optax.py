"""A rule as an optax `GradientTransformation`: the text of its torch class, translated call by call, in a file that needs jax and optax."""

from __future__ import annotations

import ast
import math
import textwrap

from optevolve.compile.emit import emit_class
from optevolve.compile.writing import docstring
from optevolve.space.lower import SPELLINGS, lower
from optevolve.space.rule import UpdateRule

__all__ = ["optax_source"]

_JAX = SPELLINGS["jax"]
# What the emitted text calls, in jax. torch's names for the primitives, jax's for the same.
_CALLS = {
    f"torch.{torch_name}": _JAX[primitive]
    for torch_name, primitive in {
        "abs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt", "sign": "sign", "tanh": "tanh", "atan": "arctan", "asinh": "arcsinh",
        "erf": "erf", "erfc": "erfc", "sigmoid": "sigmoid", "pow": "power", "where": "where", "cos": "cos", "maximum": "maximum",
        "minimum": "minimum",
    }.items()
} | {"bessel_i1e": _JAX["bessel_i1e"], "torch.special.i1e": _JAX["bessel_i1e"], "torch.zeros_like": "jnp.zeros_like"}  # fmt: skip


class _ToJax(ast.NodeTransformer):
    """torch calls as jax calls, and the next weights as the change of the weights, which is what optax adds."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "torch.clamp":
            (bound,) = node.keywords
            function = "jnp.maximum" if bound.arg == "min" else "jnp.minimum"
            return ast.Call(ast.parse(function, mode="eval").body, [*node.args, bound.value], [])
        if name.startswith("reduce."):
            node.func = ast.Name(name.removeprefix("reduce."), ast.Load())
        else:
            node.func = ast.parse(_CALLS[name], mode="eval").body
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if ast.unparse(node) == "w * keep":
            return ast.parse("-lr * weight_decay * w", mode="eval").body
        power = node.right
        if (
            isinstance(node.op, ast.Sub)
            and ast.unparse(node.left) == "1"
            and isinstance(power, ast.BinOp)
            and isinstance(power.op, ast.Pow)
        ):
            base = power.left
            if isinstance(base, ast.Constant) and isinstance(base.value, float) and 0 < base.value < 1:
                # 1 - 0.999 ** (t + 1) has three digits in float32, this has seven
                return ast.parse(f"-jnp.expm1({math.log(base.value)!r} * ({ast.unparse(power.right)}))", mode="eval").body
        return node


def _method(tree: ast.Module, name: str) -> ast.FunctionDef:
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return next(node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == name)


def optax_source(rule: UpdateRule, name: str, header: list[str]) -> str:
    """Text of a Python file with `name(learning_rate, …)`, which returns the transformation.

    Args:
        rule: what to write.
        name: of the function, an identifier.
        header: lines of the file's docstring.
    """
    tree = ast.parse(emit_class(rule, "Rule"))
    program = lower(rule.expression)
    states = [state.name for state in program.states] + ([] if rule.kind == "plain" else ["momentum_buffer"])
    numbers, advance = _method(tree, "numbers"), _method(tree, "advance")
    drawn = [draw.name for draw in program.draws]
    given = [arg.arg for arg in advance.args.args][2 + len(states) :]
    scalars = [argument for argument in given if argument not in drawn]
    bodies = []
    for function in (numbers, advance):
        statements = [statement for statement in function.body if not (isinstance(statement, ast.Expr))]
        for statement in statements:
            _ToJax().visit(statement)
        bodies.append("\n".join(ast.unparse(ast.fix_missing_locations(statement)) for statement in statements))
    # exactly 0 at the last step in float32, too: some rules divide by it
    bodies[0] = bodies[0].replace("1 - (t + 1) / T", "(T - (t + 1)) / T")
    reductions = sorted({word for word in _REDUCTIONS if f"{word}(" in bodies[1]})
    if "row_rms" in reductions or "column_rms" in reductions:
        reductions = sorted({*reductions, "rms"})
    pieces = [_REDUCTIONS[word].strip("\n") for word in reductions] + ([_DRAW.strip("\n")] if drawn else [])
    draws = "".join(
        f'\n            {draw.name} = draw("{draw.primitive}", keys[{i}] + jnp.uint32(first), w)' for i, draw in enumerate(program.draws)
    )
    return _FILE.format(
        docstring=docstring(header),
        imports=("import math\n\n" if "math." in "".join(bodies + pieces) else "") + "import jax\n",
        pieces="".join(f"\n\n{piece}\n" for piece in pieces),
        numbers=textwrap.indent(bodies[0], "    "),
        arguments=", ".join(["w", "g", *states, *given]),
        passed=", ".join(["w", "g", *(f"states[{i}]" for i in range(len(states))), *("*values" for _ in scalars[:1]), *drawn]),
        body=textwrap.indent(bodies[1].replace("w_next", "w_change"), "    "),
        states=len(states),
        name=name,
        rule=str(rule),
        check=_CHECK.format(name=name) if program.needs_total_steps else "",
        draws=draws,
        keys=f"        keys = [stream_key(seed, state.count, stream) for stream in range({len(drawn)})]\n" if drawn else "",
    )


_REDUCTIONS = {
    "norm": '''
def norm(x):
    """L2 norm of a tensor."""
    return jnp.sqrt(jnp.sum(x * x))
''',
    "rms": '''
def rms(x, axis=None):
    """Root of the mean square."""
    return jnp.sqrt(jnp.mean(x * x, axis=axis, keepdims=True))
''',
    "row_rms": '''
def row_rms(x):
    """Root of the mean square of each row: of each index of the first axis; a vector is one row."""
    return rms(x, tuple(range(1, x.ndim)) if x.ndim >= 2 else None)
''',
    "column_rms": '''
def column_rms(x):
    """Root of the mean square of each column: over the first axis; a vector is one row."""
    return rms(x, 0 if x.ndim >= 2 else None)
''',
    "orthogonalize": '''
def orthogonalize(x):
    """Nearly the orthogonal factor of x's polar decomposition, scaled by sqrt(max(1, rows / columns))."""
    if x.ndim == 0:
        return jnp.sign(x)
    y = x.reshape(x.shape[0] if x.ndim >= 2 else 1, -1)
    rows, columns = y.shape
    y = y.T if rows > columns else y
    y = y / (jnp.sqrt(jnp.sum(y * y)) + 1e-7)
    for _ in range(5):
        gram = y @ y.T
        y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
    y = y.T if rows > columns else y
    return (y * math.sqrt(max(1.0, rows / max(columns, 1)))).reshape(x.shape)
''',
}

_DRAW = '''
def mix(x):
    """Finaliser of 32 bits."""
    x = jnp.asarray(x, jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def stream_key(seed, step, stream):
    """Key of one random tensor: of a run's seed, a step (from 0) and a stream within the step."""
    weyl = jnp.uint32(0x9E3779B9)
    step = jnp.asarray(step, jnp.uint32)
    return mix(mix(mix(seed & 0xFFFFFFFF) + step * weyl) + jnp.uint32(stream) * weyl + jnp.uint32(1))


def draw(primitive, key, like):
    """Random tensor of the shape of `like`: "uniform" in [0, 1) in steps of 2^-24, or "normal"."""
    bits = mix(jnp.arange(like.size, dtype=jnp.uint32).reshape(like.shape) + key) >> 8
    if primitive == "uniform":
        return bits.astype(jnp.float32) * 2.0**-24
    centred = bits.astype(jnp.int32) * 2 + 1 - 2**24  # exact, of 2^-24 each
    return jax.scipy.special.erfinv(centred.astype(jnp.float32) * 2.0**-24) * 2.0**0.5
'''

_CHECK = """    if total_steps is None:
        raise ValueError("Expected total_steps, since {name} has decays, got None. Give the number of steps of the run.")
"""

_FILE = '''{docstring}

{imports}import jax.numpy as jnp
import optax
from typing import Any, NamedTuple
{pieces}

def numbers(t, T):
    """What depends on the step alone: t counts from 0, T is the run's length."""
{numbers}


def advance({arguments}, *, lr, weight_decay, momentum):
    """Change of the weights, and the states after one step."""
{body}


class State(NamedTuple):
    """Steps taken, and the rule's states: one tree like the parameters for each."""

    count: Any
    trees: tuple


def {name}(learning_rate, total_steps=None, momentum=0.9, weight_decay=0.0, seed=0):
    """An optax `GradientTransformation` that follows the rule `{rule}`.

    Args:
        learning_rate: a number, or a schedule: a function of the step count.
        total_steps: length of the run, needed if the rule has decays; past the end they hold.
        momentum: of the kinds momentum and nesterov: a number or a schedule.
        weight_decay: decoupled, times the learning rate.
        seed: of dropout and noise.
    """
{check}
    def init(params):
        def zeros(w):
            return jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))

        return State(jnp.zeros((), jnp.int32), tuple(jax.tree.map(zeros, params) for _ in range({states})))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("Expected the parameters, got None. Call update(gradients, state, params).")
        lr = learning_rate(state.count) if callable(learning_rate) else learning_rate
        mu = momentum(state.count) if callable(momentum) else momentum
        values = numbers(state.count.astype(jnp.float32), total_steps)
{keys}        weights, structure = jax.tree.flatten(params)
        gradients = structure.flatten_up_to(updates)
        old = [structure.flatten_up_to(tree) for tree in state.trees]
        changes, new, first = [], [[] for _ in old], 0
        for i, (weight, gradient) in enumerate(zip(weights, gradients)):
            dtype = jnp.promote_types(weight.dtype, jnp.float32)
            w, g, states = weight.astype(dtype), gradient.astype(dtype), [leaves[i] for leaves in old]{draws}
            w_change, *following = advance({passed}, lr=lr, weight_decay=weight_decay, momentum=mu)
            changes.append(jnp.where(lr == 0, 0.0, w_change).astype(weight.dtype))
            for leaves, leaf in zip(new, following):
                leaves.append(jnp.broadcast_to(leaf, w.shape))
            first += w.size
        trees = tuple(structure.unflatten(leaves) for leaves in new)
        return structure.unflatten(changes), State(state.count + 1, trees)

    return optax.GradientTransformation(init, update)
'''
