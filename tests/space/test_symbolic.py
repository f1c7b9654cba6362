import numpy as np
import pytest
import sympy

from optevolve.space import OPERATORS, Operator, parse, parse_expression, register_operator
from optevolve.space.decays import values_of
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import lower
from optevolve.space.operators import BASE_DECAYS
from optevolve.space.symbolic import symbols, to_sympy

G = np.random.default_rng(0).normal(size=50)
W = np.random.default_rng(1).normal(size=50)

POINTWISE = [row for row in OPERATORS.values() if row.pointwise_in_time]


def numerically(expression: object, **values: object) -> np.ndarray:
    names = list(values)
    return np.asarray(sympy.lambdify([symbols()[name] for name in names], expression, ["scipy", "numpy"])(*values.values()))


def call(row: Operator) -> str:
    if row.infix:
        return f"abs(g) {row.infix[0]} w" if row.arity == 2 else f"{row.infix[0]}g"
    return f"{row.name}(g, w)" if row.arity == 2 else f"{row.name}(g)"


@pytest.mark.parametrize("text", [call(row) for row in POINTWISE])
def test_every_pointwise_operator_agrees_with_numpy(text: str) -> None:
    node = parse_expression(text)
    expected = Interpreter(lower(node), G.shape, dtype=np.float64)(G, W, 0)
    np.testing.assert_allclose(numerically(to_sympy(node), g=G, w=W), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*BASE_DECAYS, "b"])
def test_every_base_decay_is_a_function_of_step_and_length(name: str) -> None:
    node = parse_expression(name)
    values = [float(to_sympy(node).subs({symbols()["t"]: t, symbols()["T"]: 12})) for t in range(12)]
    np.testing.assert_allclose(values, values_of(node, 12), atol=1e-12)


def test_numbers_are_exact_and_signs_count() -> None:
    g, w = symbols()["g"], symbols()["w"]
    assert to_sympy(parse("-plain: 0.3 * g + 1e-4 * w")) == -(sympy.Rational(3, 10) * g + w / 10000)


def test_what_has_memory_or_chance_or_sees_the_tensor_is_an_undefined_function() -> None:
    g = symbols()["g"]
    assert to_sympy(parse("v_hat")) == sympy.Function("ema", real=True)(g, sympy.Rational(9, 10))
    assert to_sympy(parse("dropout(clip_norm(g), 0.3)")).func.__name__ == "dropout"


def test_algebra_works_on_the_result() -> None:
    g = symbols()["g"]
    assert sympy.diff(to_sympy(parse("g ** 3 + 2 * g")), g) == 3 * g**2 + 2
    assert sympy.limit(to_sympy(parse("exp(-g) + tanh(g)")), g, sympy.oo) == 1
    assert sympy.simplify(to_sympy(parse("a1 + a2"))) == 1


def test_a_new_row_is_known() -> None:
    register_operator(Operator("cube_for_test", 1, "x * x * x", "{x}^3", "cube"))
    try:
        assert to_sympy(parse("cube_for_test(g)")) == symbols()["g"] ** 3
    finally:
        del OPERATORS["cube_for_test"]
