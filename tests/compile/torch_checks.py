"""Optimizers inside torch's own machinery: schedulers, scaled gradients, distributed checkpoints, and torch's own cases.

As in `contract_checks`, every check takes `make(params, lr=…, total_steps=…, **options)`.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler

from tests.compile.contract_checks import TOTAL, Make, assert_equal, assert_near, parameters, run, set_gradients, stepped, values

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [1]),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]),
}


def check_every_scheduler(make: Make) -> None:
    """Each step takes the learning rate and momentum that the scheduler has set: the run is the one with them set by hand. A tensor lr is
    filled in place; half of the schedulers are given one. One run goes through all of them, one after the other."""
    params, by_hand = ([torch.nn.Parameter(torch.linspace(-1, 1, 3))] for _ in range(2))
    optimizer, twin = (make(its, lr=0.1, total_steps=TOTAL) for its in (params, by_hand))
    group, t = optimizer.param_groups[0], 0
    for i, (name, schedule) in enumerate(SCHEDULERS.items()):
        lr = torch.tensor(0.1) if i % 2 else 0.1
        group.update(lr=lr, momentum=0.9)
        group.pop("initial_lr", None)
        scheduler = schedule(optimizer)
        seen = [(float(group["lr"]), group["momentum"])]
        for _ in range(2):
            twin.param_groups[0].update(lr=seen[-1][0], momentum=seen[-1][1])
            run(optimizer, params, t, t + 1)
            run(twin, by_hand, t, t + 1)
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            seen.append((float(group["lr"]), group["momentum"]))
            t += 1
        assert len({rate for rate, _ in seen}) > 1, name
        assert name not in ("CyclicLR", "OneCycleLR") or len({momentum for _, momentum in seen}) > 1
        assert isinstance(lr, float) or group["lr"] is lr, name
        assert_near(values(params), values(by_hand))


def check_scaled_gradients(make: Make) -> None:
    """Unscaling gives the gradients back; a step with infinite ones is skipped."""
    scaled, plain = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    first, second = (make([p], lr=0.01, total_steps=TOTAL) for p in (scaled, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(3):
        x = torch.tensor([1.0, 2.0, float("inf") if t == 1 else 3.0])
        first.zero_grad()
        scaler.scale((scaled * x).sum()).backward()
        scaler.step(first)
        scaler.update()
        if t != 1:
            plain.grad = x
            second.step()
    assert_equal(scaled.detach(), plain.detach())
    assert first.state[scaled]["step"] == 2


def check_distributed_checkpoints(make: Make) -> None:
    """State that torch.distributed.checkpoint reads and sets by parameters' names, which it creates by a step with lr = 0."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        models.append((model, make(model.parameters(), lr=0.01, total_steps=TOTAL)))
    (model, optimizer), (other, again) = models
    run(optimizer, list(model.parameters()), 0, 2)
    weights, state = get_state_dict(model, optimizer)
    set_state_dict(other, again, model_state_dict=weights, optim_state_dict=copy.deepcopy(state))
    for net, its in models:
        run(its, list(net.parameters()), 2, 3)
    assert_equal(values(other.parameters()), values(model.parameters()))


def check_errors_that_torch_expects(make: Make) -> None:
    cases = pytest.importorskip("torch.testing._internal.common_optimizers", reason="torch's test cases need expecttest")
    for case in cases.get_error_inputs_for_all_optims("cpu", torch.float32):
        given = case.optimizer_error_input
        caught = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
        with caught(case.error_type, match=case.error_regex):
            make(given.params, **{"lr": 0.1, "total_steps": TOTAL, **given.kwargs})


def check_configurations_that_torch_tests(make: Make) -> None:
    """Every combination of settings that torch tests SGD and Adam with: flags change how a step runs, not what it does."""
    cases = pytest.importorskip("torch.testing._internal.common_optimizers", reason="torch's test cases need expecttest")
    inputs = [*cases.optim_inputs_func_sgd("cpu"), *cases.optim_inputs_func_adam("cuda")]
    known = {"lr", "weight_decay", "momentum", "maximize", "capturable"}
    info = cases.OptimizerInfo(
        make,
        optim_inputs_func=lambda device: [given for given in inputs if set(given.kwargs) <= known],
        supported_impls=("foreach", "differentiable"),
        has_capturable_arg=True,
    )
    flags = ("foreach", "differentiable", "capturable")
    # The device only decides which flags are taken; nothing is put there.
    seen = set()
    for given in cases._get_optim_inputs_including_global_cliquey_kwargs("cuda", torch.float32, info):
        options = dict(given.kwargs)
        if isinstance(options.get("lr"), torch.Tensor) and options["foreach"] and not options.get("capturable"):
            with pytest.raises(ValueError, match="lr"):
                make(parameters(), **{"total_steps": TOTAL, **options})
            continue
        plain = {key: float(value) if key == "lr" else value for key, value in options.items() if key not in flags}
        assert_near(differentiably(make, options), stepped(make, parameters(), **plain))
        seen |= {flag for flag in flags if options.get(flag)}
    assert seen == set(flags)


def differentiably(make: Make, options: dict) -> list[torch.Tensor]:
    """Two steps; under autograd where they are to be differentiable, on tensors that may be written to."""
    params = parameters()
    optimizer = make(params, **{"lr": 0.01, "total_steps": TOTAL, **options})
    if options["differentiable"]:
        params = [p.detach().clone() for p in params]
        optimizer.param_groups[0]["params"] = params
    for t in range(2):
        set_gradients(params, t)
        optimizer.step()
    return values(params)


CHECKS: dict[str, Callable[[Make], None]] = {
    name: check for name, check in list(globals().items()) if name.startswith("check_") and check.__module__ == __name__
}
