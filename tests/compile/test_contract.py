"""What any torch optimizer must honour, for every rule of the zoo, 200 random rules and exported files."""

import copy
import importlib.util
import io
import pickle
import sys
import warnings

import pytest
import torch

from optevolve.compile import class_of, export
from optevolve.space import parse
from optevolve.zoo import ZOO
from tests.compile.agreement import ZOO_NAMES, random_rules

TOTAL = 50
EXPORTED = ["opt6", "a5", "opt10"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Classes as they come out of exported files."""
    folder, classes = tmp_path_factory.mktemp("exported"), {}
    for name in EXPORTED:
        path = export(ZOO[name].rule, folder / f"exported_{name}.py", name="Exported")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        classes[name] = module.Exported
    return classes


@pytest.fixture(params=[*ZOO_NAMES, "dropout(a4 * g, 0.3) + noise", *(f"exported {name}" for name in EXPORTED)])
def cls(request, exported):
    """Class of an optimizer."""
    if request.param.startswith("exported "):
        return exported[request.param.removeprefix("exported ")]
    return class_of(ZOO[request.param].rule if request.param in ZOO else parse(request.param))


def parameters(dtype=torch.float32) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((3, 4), (5,), ())]


def set_gradients(params, t: int) -> None:
    torch.manual_seed(100 + t)
    for p in params:
        p.grad = torch.randn(p.shape, dtype=torch.complex64 if p.is_complex() else torch.float32).to(p.dtype)


def run(optimizer, params, start: int, stop: int) -> None:
    for t in range(start, stop):
        set_gradients(params, t)
        optimizer.step()


def values(params) -> list[torch.Tensor]:
    return [p.detach().clone() for p in params]


def assert_equal(got, expected) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def resume_from_file(cls, params, optimizer):
    """A new optimizer and new parameters, from bytes that `torch.load(weights_only=True)` accepts."""
    buffer = io.BytesIO()
    torch.save({"params": values(params), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    resumed = [torch.nn.Parameter(p) for p in loaded["params"]]
    again = cls(resumed, lr=0.5, total_steps=7)
    again.load_state_dict(loaded["optimizer"])
    return resumed, again


def check_copies(cls, **options) -> None:
    """Checkpoint, deepcopy and pickle in the middle of a run go on bit for bit."""
    params = parameters()
    optimizer = cls(params, lr=0.01, total_steps=TOTAL, **options)
    run(optimizer, params, 0, 3)
    resumed = [
        resume_from_file(cls, params, optimizer),
        copy.deepcopy((params, optimizer)),
        pickle.loads(pickle.dumps((params, optimizer))),
    ]
    run(optimizer, params, 3, 6)
    for other_params, other in resumed:
        run(other, other_params, 3, 6)
        assert_equal(values(other_params), values(params))


def test_copies(cls) -> None:
    check_copies(cls)


def test_copies_of_flat_buffers(cls) -> None:
    check_copies(cls, flat=True)


def test_flat_is_the_same_as_tensor_by_tensor(cls) -> None:
    plain, flat = parameters(), parameters()
    run(cls(plain, lr=0.01, total_steps=TOTAL), plain, 0, 5)
    run(cls(flat, lr=0.01, total_steps=TOTAL, flat=True), flat, 0, 5)
    torch.testing.assert_close(values(flat), values(plain), equal_nan=True)


def test_checkpoints_pass_between_flat_and_not(cls) -> None:
    params, other = parameters(), parameters()
    flat, plain = cls(params, lr=0.01, total_steps=TOTAL, flat=True), cls(other, lr=0.01, total_steps=TOTAL)
    run(flat, params, 0, 3)
    plain.load_state_dict(flat.state_dict())
    for p, q in zip(params, other, strict=True):
        q.data.copy_(p.data)
    run(flat, params, 3, 5)
    for group in plain.param_groups:
        group["flat"] = False
    run(plain, other, 3, 5)
    torch.testing.assert_close(values(params), values(other), equal_nan=True)


def test_bad_settings_are_refused(cls) -> None:
    params = parameters()
    for bad in ({"lr": -1}, {"lr": float("nan")}, {"lr": torch.ones(2)}, {"momentum": 1.5}, {"weight_decay": -0.1}, {"total_steps": 0},
                {"lr": torch.tensor(0.1), "foreach": True}):  # fmt: skip
        with pytest.raises(ValueError, match=r"Expected .*got"):
            cls(params, **{"lr": 0.1, "total_steps": TOTAL, **bad})
    for both in ({"fused": True, "foreach": True}, {"fused": True, "differentiable": True}, {"differentiable": True, "flat": True}):
        with pytest.raises(RuntimeError, match="Expected"):
            cls(params, lr=0.1, total_steps=TOTAL, **both)
    with pytest.raises(TypeError):
        cls(params, lr=0.1, total_steps=TOTAL, no_such_option=1)
    with pytest.raises(ValueError, match="empty parameter list"):
        cls([], lr=0.1, total_steps=TOTAL)


def test_groups(cls) -> None:
    """Each group follows its own settings; groups and named parameters can be added later."""
    a, b, c = parameters()
    optimizer = cls([("a", a)], lr=0.01, total_steps=TOTAL)
    optimizer.add_param_group({"params": [("b", b)], "lr": 0.0})
    optimizer.add_param_group({"params": [("c", c)], "weight_decay": 0.5})
    assert [group["param_names"] for group in optimizer.param_groups] == [["a"], ["b"], ["c"]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01]
    before = values([b])
    run(optimizer, [a, b, c], 0, 2)
    assert_equal(values([b]), before)
    with pytest.raises(ValueError, match="lr of at least 0"):
        optimizer.add_param_group({"params": [("d", torch.nn.Parameter(torch.ones(1)))], "lr": -1})


def test_a_parameter_added_later_starts_at_its_own_first_step(cls) -> None:
    late, alone = parameters()[1], parameters()[1]
    first = parameters()[0]
    optimizer = cls([first], lr=0.01, total_steps=TOTAL)
    first.grad = torch.ones_like(first)
    optimizer.step()
    optimizer.add_param_group({"params": [late]})
    single = cls([alone], lr=0.01, total_steps=TOTAL, seed=0)
    late.grad = alone.grad = torch.full((5,), 0.3)
    optimizer.step()
    single.step()
    if not cls.DRAWS:
        assert_equal(values([late]), values([alone]))
    assert optimizer.state[late]["step"] == 1
    assert optimizer.state[first]["step"] == 2


def test_closure_runs_once_with_gradients(cls) -> None:
    params, calls = parameters(), []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    assert cls(params, lr=0.01, total_steps=TOTAL).step(closure).item() > 0
    assert calls == [True]


def test_without_gradients_nothing_moves(cls) -> None:
    params = parameters()
    before = values(params)
    optimizer = cls(params, lr=0.1, total_steps=TOTAL)
    optimizer.step()
    assert_equal(values(params), before)
    assert optimizer.state_dict()["state"] == {}
    params[0].grad = torch.ones(3, 4)
    optimizer.step()
    assert_equal(values(params[1:]), before[1:])
    assert len(optimizer.state_dict()["state"]) == 1


@pytest.mark.parametrize("options", [{}, {"flat": True}, {"foreach": True}], ids=str)
def test_lr_zero_moves_nothing_even_where_the_rule_divides_by_zero(cls, options: dict) -> None:
    params = parameters()
    before = values(params)
    optimizer = cls(params, lr=0.0, total_steps=TOTAL, weight_decay=0.1, **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_equal(values(params), before)
    assert optimizer.state[params[0]]["step"] == 1


def test_gradients_are_left_alone(cls) -> None:
    params = parameters()
    set_gradients(params, 0)
    before = [p.grad.clone() for p in params]
    for options in ({}, {"maximize": True}, {"flat": True}):
        cls(params, lr=0.01, total_steps=TOTAL, **options).step()
    assert_equal([p.grad for p in params], before)


def test_maximize_is_the_negated_gradient(cls) -> None:
    up, down = parameters(), parameters()
    climbing, descending = cls(up, lr=0.01, total_steps=TOTAL, maximize=True), cls(down, lr=0.01, total_steps=TOTAL)
    for t in range(3):
        set_gradients(up, t)
        for p, q in zip(up, down, strict=True):
            q.grad = -p.grad
        climbing.step()
        descending.step()
    assert_equal(values(up), values(down))


def test_weight_decay_is_decoupled(cls) -> None:
    plain, decayed = parameters(), parameters()
    before = values(plain)
    run(cls(plain, lr=0.01, total_steps=TOTAL), plain, 0, 1)
    run(cls(decayed, lr=0.01, total_steps=TOTAL, weight_decay=0.5), decayed, 0, 1)
    expected = [p - 0.01 * 0.5 * w for p, w in zip(values(plain), before, strict=True)]
    torch.testing.assert_close(values(decayed), expected)


def test_sparse_gradients_are_refused(cls) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,))
    with pytest.raises(RuntimeError, match="sparse"):
        cls([w], lr=0.1, total_steps=TOTAL).step()


def test_zero_size_parameters(cls) -> None:
    for options in ({}, {"flat": True}):
        params = [torch.nn.Parameter(torch.empty(0, 3)), torch.nn.Parameter(torch.ones(2))]
        optimizer = cls(params, lr=0.1, total_steps=TOTAL, **options)
        run(optimizer, params, 0, 2)
        assert params[0].shape == (0, 3)


def test_complex_parameters_are_pairs_of_real_ones(cls) -> None:
    """Exactly so for rules that work element by element, and for norms."""
    torch.manual_seed(0)
    z = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
    x = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
    options = {"lr": 0.01, "total_steps": TOTAL}
    first, second = cls([z], **options), cls([x], **options)
    for t in range(3):
        set_gradients([z], t)
        x.grad = torch.view_as_real(z.grad)
        first.step()
        second.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), x.detach(), equal_nan=True)
    assert all(value.is_complex() for key, value in first.state[z].items() if key != "step")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_float32_state(cls, dtype) -> None:
    params = parameters(dtype)
    optimizer = cls(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 2)
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in params]
    again = cls(resumed, lr=0.01, total_steps=TOTAL)
    again.load_state_dict(optimizer.state_dict())
    for p, q in zip(params, resumed, strict=True):
        for key in optimizer.state[p]:
            assert optimizer.state[p][key].dtype == torch.float32
            assert_equal(again.state[q][key], optimizer.state[p][key])
    run(optimizer, params, 2, 4)
    run(again, resumed, 2, 4)
    assert_equal(values(resumed), values(params))
    assert params[0].dtype == dtype


def test_state_passes_between_precisions(cls) -> None:
    params = parameters()
    optimizer = cls(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 2)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        others = parameters(dtype)
        other = cls(others, lr=0.01, total_steps=TOTAL)
        other.load_state_dict(optimizer.state_dict())
        for key in cls.STATES:
            assert other.state[others[0]][key].dtype == expected
        run(other, others, 2, 3)


def test_tensor_learning_rate(cls) -> None:
    for shape in ((), (1,)):
        number, tensor = parameters(), parameters()
        lr = torch.full(shape, 0.01)
        for options in ({}, {"flat": True}, {"capturable": True}):
            run(cls(number, lr=0.01, total_steps=TOTAL, **options), number, 0, 2)
            run(cls(tensor, lr=lr, total_steps=TOTAL, **options), tensor, 0, 2)
        torch.testing.assert_close(values(tensor), values(number), equal_nan=True)


def test_non_contiguous_tensors(cls) -> None:
    straight, turned = torch.nn.Parameter(torch.randn(4, 3).t().contiguous()), None
    turned = torch.nn.Parameter(straight.detach().t().contiguous().t())
    assert not turned.is_contiguous()
    for options in ({}, {"flat": True}):
        first, second = cls([straight], lr=0.01, total_steps=TOTAL, **options), cls([turned], lr=0.01, total_steps=TOTAL, **options)
        for t in range(2):
            set_gradients([straight], t)
            turned.grad = straight.grad.t().contiguous().t()
            first.step()
            second.step()
        torch.testing.assert_close(turned.detach(), straight.detach(), equal_nan=True)


def test_differentiable(cls) -> None:
    """Autograd sees through a step: the derivative by the weights agrees with finite differences where it exists."""
    w = torch.rand(4, dtype=torch.float64, requires_grad=True) + 0.5

    def stepped(start):
        p = start.clone()
        optimizer = cls([torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))], lr=0.01, total_steps=TOTAL, differentiable=True)
        optimizer.param_groups[0]["params"] = [p]
        p.grad = 2 * start
        optimizer.step()
        return p

    assert torch.autograd.grad(stepped(w).sum(), w)[0].shape == (4,)
    if not cls.DRAWS and cls.ELEMENTWISE and "sign" not in cls.RULE:
        assert torch.autograd.gradcheck(stepped, (torch.rand(4, dtype=torch.float64, requires_grad=True),), atol=1e-4)


def test_random_rules_keep_the_contract() -> None:
    for rule in random_rules(200):
        made = class_of(rule)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_copies(made)
        test_lr_zero_moves_nothing_even_where_the_rule_divides_by_zero(made, {})
        params = parameters(torch.bfloat16)
        optimizer = made(params, lr=0.01, total_steps=TOTAL)
        run(optimizer, params, 0, 1)
        assert all(value.dtype == torch.float32 for value in optimizer.state[params[0]].values())
