"""What any torch optimizer must honour, one check per promise, for optimizers however they are made.

Every check takes `make(params, lr=…, total_steps=…, **options)`, such as a class of `optevolve.optim` or of an exported file, and fails by
an assertion. `CHECKS` lists them all by name. Options are those that every optimizer takes; what only those within the project do is in
`project_checks`.
"""

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

TOTAL = 50
Make = Callable[..., Any]


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


def stepped(make: Make, params: list, steps: int = 2, **options) -> list[torch.Tensor]:
    """Values of the parameters after some steps."""
    run(make(params, **{"lr": 0.01, "total_steps": TOTAL, **options}), params, 0, steps)
    return values(params)


def needs_total_steps(make: Make) -> bool:
    try:
        make(parameters(), lr=0.01)
    except ValueError:
        return True
    return False


def assert_equal(got, expected) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def assert_near(got, expected) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def through_a_file(value):
    """What `torch.load(weights_only=True)` makes of what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def resume_from_file(make: Make, params, optimizer):
    """A new optimizer of other settings and new parameters, from a checkpoint."""
    loaded = through_a_file({"params": values(params), "optimizer": optimizer.state_dict()})
    resumed = [torch.nn.Parameter(p) for p in loaded["params"]]
    again = make(resumed, lr=0.5, total_steps=7)
    again.load_state_dict(loaded["optimizer"])
    return resumed, again


# Construction


def check_bad_settings_are_refused(make: Make) -> None:
    params = parameters()
    for bad in ({"lr": -1}, {"lr": float("nan")}, {"lr": torch.ones(2)}, {"momentum": 1.5}, {"weight_decay": -0.1}, {"total_steps": 0},
                {"lr": torch.tensor(0.1), "foreach": True}, {"lr": "a"}, {"lr": (0.1,)}, {"momentum": "high"}, {"momentum": None},
                {"weight_decay": float("inf")}, {"weight_decay": [0.1]}):  # fmt: skip
        with pytest.raises(ValueError, match=r"Expected .*got"):
            make(params, **{"lr": 0.1, "total_steps": TOTAL, **bad})
    for both in ({"fused": True, "foreach": True}, {"fused": True, "differentiable": True}, {"differentiable": True, "foreach": True}):
        with pytest.raises(RuntimeError, match="Expected"):
            make(params, lr=0.1, total_steps=TOTAL, **both)
    with pytest.raises(TypeError):
        make(params, lr=0.1, total_steps=TOTAL, no_such_option=1)
    with pytest.raises(ValueError, match="empty parameter list"):
        make([], lr=0.1, total_steps=TOTAL)
    make(params, lr=torch.tensor(0.1), total_steps=TOTAL, foreach=True, capturable=True)


def check_total_steps(make: Make) -> None:
    """Rules with decays ask for the length of the run, hold their decays past its end and say so once; others do neither."""
    params = parameters()
    if not needs_total_steps(make):
        others = parameters()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_equal(stepped(make, params, 5, total_steps=3), stepped(make, others, 5, total_steps=None))
        return
    with pytest.raises(ValueError, match=r"Expected total_steps, since .* has decays"):
        make(params, lr=0.01)
    optimizer = make(params, lr=0.01, total_steps=3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(optimizer, params, 0, 3)
        assert not said
        run(optimizer, params, 3, 6)
    assert ["goes on past its 3 total_steps" in str(warning.message) for warning in said] == [True]


def check_groups_and_names(make: Make) -> None:
    """Each group follows its own settings; groups and named parameters can be added later."""
    a, b, c = parameters()
    optimizer = make([("a", a)], lr=0.01, total_steps=TOTAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.add_param_group({"params": [("b", b)], "lr": 0.0, "initial_lr": 0.1, "name": "second", "lr_scale": 1.0})
        optimizer.add_param_group({"params": [("c", c)], "weight_decay": 0.5, "swa_lr": 0.1})
    assert [group["param_names"] for group in optimizer.param_groups] == [["a"], ["b"], ["c"]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01]
    before = values([b])
    run(optimizer, [a, b, c], 0, 2)
    assert_equal(values([b]), before)
    loaded = through_a_file(optimizer.state_dict())
    assert [group["param_names"] for group in loaded["param_groups"]] == [["a"], ["b"], ["c"]]
    with pytest.raises(ValueError, match="lr of at least 0"):
        optimizer.add_param_group({"params": [("d", torch.nn.Parameter(torch.ones(1)))], "lr": -1})


def check_a_parameter_added_later_starts_at_its_own_first_step(make: Make) -> None:
    late, alone = parameters()[1], parameters()[1]
    first = parameters()[0]
    optimizer = make([first], lr=0.01, total_steps=TOTAL)
    first.grad = torch.ones_like(first)
    optimizer.step()
    optimizer.add_param_group({"params": [late]})
    single = make([alone], lr=0.01, total_steps=TOTAL)
    late.grad = alone.grad = torch.full((5,), 0.3)
    optimizer.step()
    single.step()
    if not getattr(optimizer, "DRAWS", ()):  # those of a second parameter are others
        assert_equal(values([late]), values([alone]))
    assert optimizer.state[late]["step"] == 1
    assert optimizer.state[first]["step"] == 2


# State


def check_state_is_lazy_and_lean(make: Make) -> None:
    """No state before the first step; then the rule's own buffers, of the parameter's shape, and a 0-d float32 step count on the CPU."""
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    assert not optimizer.state
    assert callable(optimizer._init_group)
    run(optimizer, params, 0, 2)
    for p in params:
        state = dict(optimizer.state[p])
        step = state.pop("step")
        assert (step.shape, step.dtype, step.device.type, step.item()) == ((), torch.float32, "cpu", 2)
        assert all(value.shape == p.shape and value.dtype == p.dtype for value in state.values())


def check_copies(make: Make, **options) -> None:
    """Checkpoint, deepcopy and pickle in the middle of a run go on bit for bit."""
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL, **options)
    run(optimizer, params, 0, 2)
    resumed = [
        resume_from_file(make, params, optimizer),
        copy.deepcopy((params, optimizer)),
        pickle.loads(pickle.dumps((params, optimizer))),
    ]
    run(optimizer, params, 2, 4)
    for other_params, other in resumed:
        run(other, other_params, 2, 4)
        assert_equal(values(other_params), values(params))


def check_older_checkpoints_load(make: Make) -> None:
    """Settings that a checkpoint does not know yet take their defaults."""
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in ("fused", "foreach", "capturable", "differentiable", "maximize"):
            del group[name]
    resumed = [torch.nn.Parameter(p) for p in values(params)]
    again = make(resumed, lr=0.5, total_steps=TOTAL)
    again.load_state_dict(saved)
    run(optimizer, params, 2, 3)
    run(again, resumed, 2, 3)
    assert_equal(values(resumed), values(params))


def check_hooks(make: Make) -> None:
    """Hooks of the user run around steps and state dicts, and see what they return."""
    params, seen = parameters(), []
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    run(optimizer, params, 0, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before", "after", "load", "loaded"]


# The step


def check_closure_runs_once_with_gradients(make: Make) -> None:
    params, calls = parameters(), []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    assert make(params, lr=0.01, total_steps=TOTAL).step(closure).item() > 0
    assert calls == [True]


def check_without_gradients_nothing_moves(make: Make) -> None:
    for options in ({}, {"foreach": True}):
        params = parameters()
        before = values(params)
        optimizer = make(params, lr=0.1, total_steps=TOTAL, weight_decay=0.1, **options)
        optimizer.step()
        assert_equal(values(params), before)
        assert optimizer.state_dict()["state"] == {}
        params[0].grad = torch.ones(3, 4)
        optimizer.step()
        assert_equal(values(params[1:]), before[1:])
        assert len(optimizer.state_dict()["state"]) == 1


def check_lr_zero_moves_nothing_even_where_the_rule_divides_by_zero(make: Make) -> None:
    for options in ({}, {"foreach": True}, {"fused": True}, {"capturable": True}, {"lr": torch.tensor(0.0)}):
        params = parameters()
        before = values(params)
        optimizer = make(params, **{"lr": 0.0, "total_steps": TOTAL, "weight_decay": 0.1, **options})
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert_equal(values(params), before)
        assert optimizer.state[params[0]]["step"] == 1


def check_gradients_are_left_alone(make: Make) -> None:
    params = parameters()
    set_gradients(params, 0)
    before = [p.grad.clone() for p in params]
    for options in ({}, {"maximize": True}, {"foreach": True}, {"capturable": True}):
        make(params, lr=0.01, total_steps=TOTAL, **options).step()
    assert_equal([p.grad for p in params], before)


def check_maximize_is_the_negated_gradient(make: Make) -> None:
    up, down = parameters(), parameters()
    climbing, descending = make(up, lr=0.01, total_steps=TOTAL, maximize=True), make(down, lr=0.01, total_steps=TOTAL)
    for t in range(2):
        set_gradients(up, t)
        for p, q in zip(up, down, strict=True):
            q.grad = -p.grad
        climbing.step()
        descending.step()
    assert_equal(values(up), values(down))


def check_weight_decay_is_decoupled(make: Make) -> None:
    before = values(parameters())
    plain, decayed = stepped(make, parameters(), 1), stepped(make, parameters(), 1, weight_decay=0.5)
    torch.testing.assert_close(decayed, [p - 0.01 * 0.5 * w for p, w in zip(plain, before, strict=True)], equal_nan=True)


def check_all_ways_to_run_agree(make: Make) -> None:
    plain = stepped(make, parameters())
    for way in ({"foreach": True}, {"capturable": True}, {"lr": torch.tensor(0.01)}, {"lr": torch.full((1,), 0.01)},
                {"lr": torch.tensor(0.01), "capturable": True, "foreach": True}):  # fmt: skip
        assert_near(stepped(make, parameters(), **way), plain)


# Kinds of tensors


def check_sparse_gradients_are_refused(make: Make) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    for options in ({}, {"foreach": True}):
        with pytest.raises(RuntimeError, match="sparse"):
            make([w], lr=0.1, total_steps=TOTAL, **options).step()


def check_zero_size_parameters(make: Make) -> None:
    for options in ({}, {"foreach": True}, {"capturable": True}):
        params = [torch.nn.Parameter(torch.empty(0, 3)), torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.empty(0))]
        stepped(make, params, **options)
        assert [p.shape for p in params] == [(0, 3), (2,), (0,)]
        empty = [torch.nn.Parameter(torch.empty(0, 3))]
        stepped(make, empty, **options)


def check_complex_parameters_are_pairs_of_real_ones(make: Make) -> None:
    """Exactly so for rules that work element by element, and for norms."""
    for options in ({}, {"foreach": True}):
        torch.manual_seed(0)
        z = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        x = torch.nn.Parameter(torch.view_as_real(z.detach()).clone())
        first, second = (make([p], lr=0.01, total_steps=TOTAL, **options) for p in (z, x))
        for t in range(2):
            set_gradients([z], t)
            x.grad = torch.view_as_real(z.grad)
            first.step()
            second.step()
        assert_near(torch.view_as_real(z.detach()), x.detach())
        assert all(value.is_complex() for key, value in first.state[z].items() if key != "step")


def check_half_precision_keeps_float32_state(make: Make) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        params = parameters(dtype)
        optimizer = make(params, lr=0.01, total_steps=TOTAL)
        run(optimizer, params, 0, 2)
        resumed, again = resume_from_file(make, params, optimizer)
        for p, q in zip(params, resumed, strict=True):
            for key in optimizer.state[p]:
                assert optimizer.state[p][key].dtype == torch.float32
                assert_equal(again.state[q][key], optimizer.state[p][key])
        run(optimizer, params, 2, 3)
        run(again, resumed, 2, 3)
        assert_equal(values(resumed), values(params))
        assert params[0].dtype == dtype


def check_state_passes_between_precisions(make: Make) -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        params = parameters()
        optimizer = make(params, lr=0.01, total_steps=TOTAL)
        run(optimizer, params, 0, 2)
        others = parameters(dtype)
        other = make(others, lr=0.01, total_steps=TOTAL)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
        for name in set(optimizer.state[params[0]]) - {"step"}:
            assert other.state[others[0]][name].dtype == expected
            assert_equal(other.state[others[0]][name].float(), optimizer.state[params[0]][name])
        run(other, others, 2, 3)
        assert other.state[others[0]]["step"] == 3


def check_non_contiguous_tensors(make: Make) -> None:
    for options in ({}, {"foreach": True}):
        torch.manual_seed(0)
        straight = torch.nn.Parameter(torch.randn(4, 3).t().contiguous())
        turned = torch.nn.Parameter(straight.detach().t().contiguous().t())
        assert not turned.is_contiguous()
        first, second = (make([p], lr=0.01, total_steps=TOTAL, **options) for p in (straight, turned))
        for t in range(2):
            set_gradients([straight], t)
            turned.grad = straight.grad.t().contiguous().t()
            first.step()
            second.step()
        assert_near(turned.detach(), straight.detach())


def check_differentiable(make: Make) -> None:
    """Autograd sees through a step: by lr, in which the first step is linear, and by where it starts."""
    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    start = torch.nn.Parameter(torch.linspace(0.5, 1.5, 4, dtype=torch.float64))
    optimizer = make([start], lr=lr, total_steps=TOTAL, differentiable=True)
    w = start.clone()
    optimizer.param_groups[0]["params"] = [w]
    w.grad = 2 * start
    optimizer.step()
    by_lr, by_start = torch.autograd.grad(w.sum(), (lr, start))
    assert by_start.shape == start.shape
    moved = (w - start).sum().detach()
    torch.testing.assert_close(by_lr * lr.detach(), moved, equal_nan=True)


# Memory, versions, checkpoints


WAYS: tuple[dict[str, Any], ...] = ({}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"capturable": True})


def check_versions_of_what_is_written(make: Make, ways: tuple[dict[str, Any], ...] = WAYS) -> None:
    """Autograd is told that weights and states were changed, so that it refuses a second backward pass through them."""
    for options in ways:
        params = parameters()
        optimizer = make(params, lr=0.01, total_steps=TOTAL, **options)
        run(optimizer, params, 0, 5)
        written = [*params, *(value for p in params for key, value in optimizer.state[p].items() if key != "step")]
        before = [tensor._version for tensor in written]
        run(optimizer, params, 5, 6)
        assert all(tensor._version > version for tensor, version in zip(written, before, strict=True)), options


def check_states_of_other_shapes_are_refused(make: Make, ways: tuple[dict[str, Any], ...] = WAYS) -> None:
    """On loading and, where parameters, gradients or states were changed since, at the step."""
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 1)
    saved = optimizer.state_dict()
    names = [name for name in optimizer.state[params[0]] if name != "step"]
    if names:
        for others in (params[::-1], [torch.nn.Parameter(torch.ones(4, 4)), *params[1:]]):
            with pytest.raises(ValueError, match=r"Expected .* of shape .*got"):
                make(others, lr=0.01, total_steps=TOTAL).load_state_dict(saved)
        del saved["state"][0][names[0]]
        with pytest.raises(ValueError, match=r"Expected the states .*got"):
            make(params, lr=0.01, total_steps=TOTAL).load_state_dict(saved)
    for options in ways:
        params = parameters()
        optimizer = make(params, lr=0.01, total_steps=TOTAL, **options)
        run(optimizer, params, 0, 1)
        params[0].data = torch.ones(6, 4)
        with pytest.raises((ValueError, RuntimeError), match=r"Expected .*got"):
            optimizer.step()
        params[0].grad = torch.ones(6, 4)
        if names:
            with pytest.raises((ValueError, RuntimeError), match=r"Expected .*got"):
                optimizer.step()


def check_checkpoints_say_their_rule(make: Make) -> None:
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 1)
    saved = through_a_file(optimizer.state_dict())
    saved["param_groups"][0]["rule"] = "another * g"
    with pytest.raises(ValueError, match=r"Expected a checkpoint of .*got .*another \* g"):
        optimizer.load_state_dict(saved)
    del saved["param_groups"][0]["rule"]  # as older versions wrote it
    optimizer.load_state_dict(saved)
    run(optimizer, params, 1, 2)


def check_checkpoints_of_torchs_optimizers_are_refused(make: Make) -> None:
    """Also those without states, as of SGD, and of optimizers that have not stepped; nothing of them is taken."""
    for theirs in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Rprop, torch.optim.LBFGS):
        params = parameters()
        saved = through_a_file(theirs(params, lr=0.5).state_dict())
        optimizer = make(params, lr=0.01, total_steps=TOTAL)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(
            ValueError, match=r"Expected a checkpoint of .*got one of another optimizer\. Build the optimizer that wrote it"
        ):
            optimizer.load_state_dict(saved)
        assert optimizer.state_dict() == before
    saved = make(params, lr=0.01, total_steps=TOTAL).state_dict()  # what older versions wrote, schedulers and users beside
    del saved["param_groups"][0]["rule"]
    saved["param_groups"][0] |= {"seed": 0, "flat": False, "initial_lr": 0.1, "mine": 1}
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["mine"] == 1


def check_what_is_no_state_is_refused_before_anything_is_loaded(make: Make) -> None:
    """Named by parameter, with what was expected and found; the optimizer then steps as if nothing had been."""
    params = [("first", parameters()[0]), ("second", parameters()[1])]
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, [p for _, p in params], 0, 1)
    names = [name for name in optimizer.state[params[1][1]] if name != "step"]
    dense = torch.ones(5)
    steps = (float("nan"), torch.tensor(float("nan")), -3, 2.5, float("inf"), None, "5", [5], torch.ones(2), torch.tensor(1j), 2**70)
    bad = [("step", value, r"'step' .*whole number") for value in (*steps, np.array(5))]
    sparse, complex_, nowhere = dense.to_sparse(), dense + 1j, dense.to("meta")
    others = ([1.0] * 5, None, "x", 0.0, np.ones(5), sparse, dense[:4], dense.int(), dense.bool(), complex_, nowhere)
    bad += [(name, value, rf"'{name}' .*dense tensor of shape \(5,\)") for name in names for value in others]
    for key, value, told in bad:
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0]["lr"] = 0.5
        saved["state"][1][key] = value
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError, match=rf"Expected {told}.*, got ") as caught:
            optimizer.load_state_dict(saved)
        assert "parameter 1 (second) of the checkpoint" in str(caught.value)
        assert optimizer.param_groups[0]["lr"] == 0.01
        for index, state in before["state"].items():
            assert_equal(optimizer.state_dict()["state"][index], state)
    for value in (None, [dense], dense, 3):
        saved = optimizer.state_dict()
        saved["state"] = {**saved["state"], 1: value}
        with pytest.raises(ValueError, match=r"Expected the states .*parameter 1 \(second\).*, got "):
            optimizer.load_state_dict(saved)
    run(optimizer, [p for _, p in params], 1, 2)
    assert optimizer.state[params[1][1]]["step"] == 2


def check_other_total_steps_are_told(make: Make) -> None:
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 1)
    saved = optimizer.state_dict()
    for change, expected, told in ((7, 7, "total_steps=7 stands in place of 9"), (None, 9, "does not say its total_steps")):
        changed = copy.deepcopy(saved)
        changed["param_groups"][0]["total_steps"] = change
        other = make(params, lr=0.01, total_steps=9)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            other.load_state_dict(changed)
        assert [told in str(warning.message) for warning in said] == ([True] if needs_total_steps(make) else [])
        if needs_total_steps(make):
            assert other.param_groups[0]["total_steps"] == expected


def check_another_weight_decay_is_told(make: Make) -> None:
    params = parameters()
    saved = make(params, lr=0.01, total_steps=TOTAL, weight_decay=0.1).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(params, lr=0.5, total_steps=TOTAL, weight_decay=0.1).load_state_dict(saved)
    for given in (0.0, 0.2):
        other = make(params, lr=0.01, total_steps=TOTAL, weight_decay=given)
        with pytest.warns(UserWarning, match=rf"weight_decay=0\.1 stands in place of {given}, .*set param_groups"):
            other.load_state_dict(saved)
        assert other.param_groups[0]["weight_decay"] == 0.1


def check_numbers_as_steps_load(make: Make) -> None:
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 2)
    for kind in (int, float, np.int64, lambda step: torch.tensor([int(step)])):
        resumed = [torch.nn.Parameter(p) for p in values(params)]
        again = make(resumed, lr=0.01, total_steps=TOTAL)
        saved = copy.deepcopy(optimizer.state_dict())
        for state in saved["state"].values():
            state["step"] = kind(state["step"])
        again.load_state_dict(saved)
        run(again, resumed, 2, 3)
        step = again.state[resumed[0]]["step"]
        assert (step.dtype, step.shape, step.item()) == (torch.float32, (), 3)


def check_whole_numbers_and_unknown_arguments(make: Make) -> None:
    params = parameters()
    for total in (np.int64(5), np.uint8(5), torch.tensor(5)):
        optimizer = make(params, lr=0.1, total_steps=total)
        assert (type(optimizer.param_groups[0]["total_steps"]), optimizer.param_groups[0]["total_steps"]) == (int, 5)
    for total in (True, 5.0, "5", np.True_, torch.tensor(True), (0.9, 0.99)):
        with pytest.raises(ValueError, match="whole number"):
            make(params, lr=0.1, total_steps=total)
    name = getattr(make, "__name__", "")
    for unknown in ({"betas": (0.9, 0.99)}, {"eps": 1e-8}, {"nesterov": True}, {"flat": True}, {"learning_rate": 0.1}, {"name": "x"}):
        told = rf"{name} has no {next(iter(unknown))}\. It takes lr, .*weight_decay, .*leave the argument out"
        with pytest.raises(TypeError, match=told):
            make(params, lr=0.1, total_steps=5, **unknown)
        if "name" not in unknown:
            with pytest.warns(UserWarning, match=told):
                make([{"params": params, **unknown}], lr=0.1, total_steps=5)


def check_storages_stay_apart(make: Make) -> None:
    params = parameters()
    run(make(params, lr=0.01, total_steps=TOTAL), params, 0, 6)
    assert len({p.untyped_storage().data_ptr() for p in params}) == len(params)


CHECKS: dict[str, Callable[[Make], None]] = {name: check for name, check in list(globals().items()) if name.startswith("check_")}
# Those that step by compiled kernels.
FUSED = ("check_versions_of_what_is_written", "check_states_of_other_shapes_are_refused")
