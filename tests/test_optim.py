"""The zoo's classes, their agreement with torch's own optimizers, and the schedules."""

import pickle
import warnings

import numpy as np
import pytest
import torch

import optevolve as oe
from optevolve import optim
from optevolve.compile.schedulers import WarmupCosine
from optevolve.library import SCHEDULES, ZOO, rule_or_name
from optevolve.schedule import schedule_values
from optevolve.space.decays import values_of

TWINS = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.01), {}),
    "Momentum": (lambda p: torch.optim.SGD(p, 0.01, momentum=0.9), {}),
    "Nesterov": (lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True), {}),
    "Adam": (lambda p: torch.optim.Adam(p, 0.01), {}),
    "AdamW": (lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01), {}),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 0.01), {}),
    "Adam with decoupled weight decay": (lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1), {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", TWINS)
def test_classic_rules_match_torch(name: str, fused: bool) -> None:
    make, options = TWINS[name]
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 3), torch.randn(100, 8, 3)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = getattr(optim, name.split()[0])([ours], lr=0.01, fused=fused, **options)
    twin = make([theirs])
    for g in gradients:
        ours.grad = theirs.grad = g
        optimizer.step()
        twin.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_every_rule_of_the_zoo_has_a_class() -> None:
    for key, row in ZOO.items():
        cls = getattr(optim, optim.class_name(key))
        assert str(row.rule).split(":")[-1].strip().replace(" ", "") in cls.__doc__.replace(" ", "").replace("\n", "")
        assert row.summary[1:] in cls.__doc__
        assert cls.__name__ in dir(optim)
        assert row.learning_rate == cls.LEARNING_RATE
    assert {"Opt1", "Opt10", "A1", "A5", "PowerSign", "AddSign", "QHM", "Lion"} <= set(optim.__all__)


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("SGD", 0),
        ("Momentum", 1),
        ("Nesterov", 1),
        ("Lion", 1),
        ("Opt6", 1),
        ("Opt10", 1),
        ("RMSprop", 1),
        ("Adam", 2),
        ("AdamW", 2),
        ("A1", 2),
    ],
)
def test_state_is_what_the_equation_needs(name: str, buffers: int) -> None:
    """So that a fused step moves 12 + 8 k bytes per parameter: SGD 12, Lion and Opt6 20, AdamW and A1 28."""
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer = getattr(optim, name)([w], lr=0.1, total_steps=10)
    optimizer.step()
    assert sum(value.shape == w.shape for value in optimizer.state[w].values()) == buffers


def test_classes_pickle_by_name() -> None:
    assert pickle.loads(pickle.dumps(optim.Opt6)) is optim.Opt6
    assert pickle.loads(pickle.dumps(optim.L3)) is optim.L3


def test_recommended_learning_rate_is_the_default() -> None:
    assert optim.Lion([torch.nn.Parameter(torch.ones(1))]).param_groups[0]["lr"] == 1e-4
    with pytest.raises(ValueError, match="no learning rate is recommended"):
        optim.build("tanh(g)", [torch.nn.Parameter(torch.ones(1))], lr=None)


def test_unknown_class_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Opt99'"):
        _ = optim.Opt99


def scheduled(cls, steps: int, *args, optimizer=None, **options) -> tuple[list[float], list[float]]:
    optimizer = optimizer or torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.9)
    scheduler = cls(optimizer, *args, **options)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0].get("momentum"))
        optimizer.step()
        scheduler.step()
    return rates, momenta


@pytest.mark.parametrize(("total", "warmup", "hold"), [(100, 10, 5), (35, 6, 0), (10, 0, 10), (7, 7, 0), (5, 0, 0), (1, 0, 0)])
def test_warmup_cosine_is_the_projects_schedule(total: int, warmup: int, hold: int) -> None:
    rates, momenta = scheduled(WarmupCosine, total, total, warmup, hold, momentum=(0.95, 0.85))
    expected = schedule_values(0.5, total, warmup, hold)
    np.testing.assert_allclose(rates, expected[0], atol=1e-12)
    np.testing.assert_allclose(momenta, expected[1], atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_evolved_schedules(name: str) -> None:
    total, warmup = 50, 5
    rates, _ = scheduled(getattr(optim, name), total + 3, total, warmup)
    expected = schedule_values(0.5, total, warmup)[0] * values_of(SCHEDULES[name], total)
    assert rates[0] == 1e-7
    np.testing.assert_allclose(rates[1:total], expected[1:], rtol=1e-9)
    assert rates[total:] == rates[total - 1 : total] * 3
    assert np.all(np.isfinite(rates))


def test_schedules_work_on_adam_and_resume() -> None:
    def make():
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        return optimizer, optim.L1(optimizer, 20, 3, momentum=(0.95, 0.85))

    optimizer, scheduler = make()
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    assert 0.85 < optimizer.param_groups[0]["betas"][0] < 0.95
    again, resumed = make()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for pair in ((optimizer, scheduler), (again, resumed)):
        pair[0].step()
        pair[1].step()
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert again.param_groups[0]["betas"] == optimizer.param_groups[0]["betas"]


def test_schedules_that_do_not_fit_are_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.raises(ValueError, match="warmup \\+ hold within total_steps"):
        WarmupCosine(optimizer, 10, 8, 3)
    adagrad = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.raises(ValueError, match="momentum or betas"):
        WarmupCosine(adagrad, 10, 2, momentum=(0.95, 0.85))


SCHEDULERS = ["WarmupCosine", *SCHEDULES]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_legs_as_fractions_are_those_in_steps(name: str) -> None:
    cls = getattr(optim, name)
    for fractions, steps in (((0.1, 0.3), (4, 12)), ((0.25, 0), (10, 0)), ((0, 0.5), (0, 20)), ((0.5, 0.5), (20, 20))):
        assert scheduled(cls, 45, 40, *fractions) == scheduled(cls, 45, 40, *steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_groups_that_are_added_later_are_scheduled(name: str) -> None:
    """Their learning rate is their peak: from the next step on both groups are at the same part of theirs."""
    made = optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    scheduler = getattr(optim, name)(made, 20, 0.1)
    for t in range(20):
        if t == 6:
            made.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.05})
        made.step()
        scheduler.step()
        if t >= 6:
            first, second = (group["lr"] for group in made.param_groups)
            assert second == pytest.approx(first / 10)
    resumed = getattr(optim, name)(made, 20, 0.1)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.base_lrs == scheduler.base_lrs


@pytest.mark.parametrize("name", ["WarmupCosine", "L2"])
@pytest.mark.parametrize(("key", "value"), [("warmup", "5"), ("hold", "a"), ("warmup", -1), ("hold", float("nan")), ("warmup", None)])
def test_legs_that_are_no_numbers_are_refused(name: str, key: str, value) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.raises(ValueError, match=rf"Expected {key} of at least 0, .*got {value!r}"):
        getattr(optim, name)(optimizer, 10, **{key: value})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_arguments_of_schedules_are_answered_by_their_own_name(name: str) -> None:
    cls, optimizer = getattr(optim, name), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    for unknown in ({"warmup_steps": 3}, {"T_max": 10}, {"num_warmup_steps": 3, "eta_min": 0.0}):
        told = rf"^{name} has no {', '.join(unknown)}\. It takes total_steps, warmup, hold, momentum, .*fractions of the run"
        with pytest.raises(TypeError, match=told):
            cls(optimizer, total_steps=9, **unknown)
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) missing .*'total_steps'"):
        cls(optimizer)
    expected = [cls(optimizer, 20, 0.5, 0.25).factor(t) for t in range(20)]
    for legs in ((torch.tensor(0.5), torch.tensor([0.25])), (np.float32(0.5), np.array(0.25)), (torch.tensor(10), np.int64(5))):
        scheduler = cls(optimizer, 20, *legs)
        assert [scheduler.factor(t) for t in range(20)] == expected
        assert (type(scheduler.warmup), type(scheduler.hold)) == (int, int)
    with pytest.raises(ValueError, match="below 2"):
        cls(optimizer, 2**70)


@pytest.mark.parametrize("name", ["Adam", "Lion", "Opt6", "RMSprop", "Muon"])
def test_what_stands_where_torch_has_betas_or_momentum_is_answered(name: str) -> None:
    cls = getattr(optim, name)
    for third in ((0.9, 0.99), [0.9, 0.99]):
        with pytest.raises(
            ValueError, match=rf"whole number, got .*third argument of {name}\. {name} has no betas\. It takes lr, .*its rule"
        ):
            cls([torch.nn.Parameter(torch.ones(1, 1))], 1e-3, third)
    for third in (0.9, 0.99):
        with pytest.raises(ValueError, match=rf"whole number, got .*third argument of {name}\. Name what is meant"):
            cls([torch.nn.Parameter(torch.ones(1, 1))], 1e-3, third)
    for third in (2**63, 2**70):
        with pytest.raises(ValueError, match="below 2"):
            cls([torch.nn.Parameter(torch.ones(1, 1))], 1e-3, third)
    w = torch.nn.Parameter(torch.ones(2, 2))
    w.grad = torch.ones(2, 2)
    cls([w], 1e-3, 2**63 - 1).step()
    assert w.isfinite().all()


def test_a_checkpoint_of_adam_does_not_take_adamw_its_decay_without_a_word() -> None:
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    for first, second, told in (
        (optim.Adam, optim.AdamW, "0.0 stands in place of 0.01"),
        (optim.AdamW, optim.Adam, "0.01 stands in place of 0.0"),
    ):
        saved = first([w], lr=0.1)
        saved.step()
        with pytest.warns(UserWarning, match=f"weight_decay={told}"):
            second([w], lr=0.1).load_state_dict(saved.state_dict())


def test_a_checkpoint_from_when_the_decay_was_part_of_adamw_keeps_it() -> None:
    """Older versions did not write the rule, and kept 0.01 in it beside a weight decay of 0."""
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    old = optim.AdamW([w], lr=0.1)
    old.step()
    saved = old.state_dict()
    del saved["param_groups"][0]["rule"]
    saved["param_groups"][0]["weight_decay"] = 0.0
    resumed = optim.AdamW([w], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(saved)
    assert resumed.param_groups[0]["weight_decay"] == 0.01
    with pytest.warns(UserWarning, match=r"weight_decay=0\.0 stands in place of 0\.01"):  # its class has no default
        oe.build("adamw", [w], 0.1).load_state_dict(saved)


@pytest.mark.parametrize("rule", ["adamw", "opt6", "clip_norm(g)"])
def test_what_is_built_keeps_parameters_apart_and_shareable(rule: str) -> None:
    """Who saves or shares a model tensor by tensor finds each with a storage of its own size."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    made = oe.build(rule, model.parameters(), 0.1, total_steps=10)
    for _ in range(6):
        model.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        made.step()
    storages = [p.untyped_storage() for p in model.parameters()]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    assert [storage.nbytes() for storage in storages] == [4 * p.numel() for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    model.share_memory()
    made.step()
    assert all(p.is_shared() and not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("rule", ["adamw", "opt6", "clip_norm(g)"])
def test_safetensors_keeps_a_model_that_is_trained(rule: str, tmp_path) -> None:
    """It refuses tensors that share memory."""
    safetensors = pytest.importorskip("safetensors.torch")
    model, other = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)) for _ in range(2))
    made = oe.build(rule, model.parameters(), 0.1, total_steps=10)
    for _ in range(6):
        model.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        made.step()
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    safetensors.load_model(other, tmp_path / "model.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    made.step()
    safetensors.save_model(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ["opt6", " Opt10 ", "v_hat / (sqrt(s_hat) + 1e-8)", "Nest ~ bessel_i1e(g)", "L1"])
def test_build_takes_what_commands_take_for_a_rule(text: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2))]
    made = oe.build(text, params, 0.1, total_steps=5)
    assert str(rule_or_name(text)) == made.RULE
    assert type(oe.build(rule_or_name(text), params, 0.1, total_steps=5)) is type(made)


def test_build_suggests_names_near_what_it_does_not_know() -> None:
    with pytest.raises(oe.OptevolveError, match="did you mean 'rmsprop' of the zoo"):
        oe.build("rmsporp", [torch.nn.Parameter(torch.ones(2))], 0.1)
