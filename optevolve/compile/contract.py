"""What every optimizer of a rule is beyond its equation: a `torch.optim.Optimizer` that keeps the whole contract. Needs only torch.

A subclass brings `numbers` and `advance`, which `optevolve.compile.emit` writes from the rule.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, _use_grad_for_differentiable

from optevolve.compile.compiled import compiled_step
from optevolve.compile.draws import draw, stream_key
from optevolve.compile.flat import FlatBucket
from optevolve.compile.foreach import Many
from optevolve.compile.kernel import fused_step
from optevolve.compile.reduce import Reduce, ReduceEach, ReduceSharded
from optevolve.compile.work import LOW_PRECISION, Work, numbers_of, plain, shard_offset, state_dtype

__all__ = ["RuleOptimizer"]

_LARGE = 2**20  # elements from which on a compiled kernel pays


class RuleOptimizer(Optimizer):
    """Base of the optimizers of update rules.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, a number of at least 0 or a tensor of one element; None: the recommended one, where there is one.
        total_steps: length of the run T, needed if the rule has decays; past the end they hold.
        momentum: in [0, 1]; rules of the plain kind have none and ignore it. Schedulers may set it.
        weight_decay: decoupled: w <- w (1 - lr weight_decay) beside the rule's own step.
        seed: of dropout and noise.
        maximize: climb instead of descend.
        foreach: run the step on lists of tensors.
        fused: run the step as one compiled kernel per tensor; None: where that pays.
        flat: keep the parameters in one buffer, so that a step costs the same however many tensors there are.
        capturable: keep the step count on the parameter's device, so that the step can be captured in a CUDA graph.
        differentiable: let autograd see the step.
    Raises:
        ValueError: if an argument is out of range, or total_steps is missing.
        RuntimeError: if two ways to run the step exclude each other, or a gradient is sparse.
    """

    SOURCE: ClassVar[str]
    RULE: ClassVar[str]
    KIND: ClassVar[str]
    LEARNING_RATE: ClassVar[float | None]
    STATES: ClassVar[tuple[str, ...]]
    DRAWS: ClassVar[tuple[str, ...]]
    ELEMENTWISE: ClassVar[bool]
    NEEDS_TOTAL_STEPS: ClassVar[bool]
    numbers: ClassVar[Callable[..., tuple[Any, ...]]]
    advance: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        total_steps: int | None = None,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        seed: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        flat: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        lr = self.LEARNING_RATE if lr is None else lr  # export never
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "total_steps": total_steps, "maximize": maximize,
            "foreach": foreach, "fused": fused, "capturable": capturable, "differentiable": differentiable,
        }  # fmt: skip
        defaults["seed"] = seed  # export if draws
        defaults["flat"] = flat  # export never
        self._forget()  # export if decays
        self._check(defaults)
        super().__init__(params, defaults)

    def _forget(self) -> None:  # export if decays
        """Drops what can be made anew: it is no part of the state."""
        self._buckets: dict[int, FlatBucket] = {}  # export never
        self._warned = False  # export if decays

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group after checking its settings; see `torch.optim.Optimizer.add_param_group`."""
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        lr, total = group["lr"], group["total_steps"]
        if lr is None:  # export never
            raise ValueError(f"Expected lr, since no learning rate is recommended for {type(self).__name__}, got None.")
        if isinstance(lr, Tensor):
            if lr.numel() != 1:
                raise ValueError(f"Tensor lr must be 1-element. Expected a number or one element, got shape {tuple(lr.shape)}.")
            if group["foreach"] and not group["capturable"]:
                raise ValueError("Expected a number as lr, got a tensor with foreach=True. Set capturable=True or foreach=False.")
        elif not (lr >= 0 and math.isfinite(lr)):
            raise ValueError(f"Expected lr of at least 0, got {lr}.")
        if not 0 <= group["momentum"] <= 1:
            raise ValueError(f"Expected momentum in [0, 1], got {group['momentum']}.")
        if not group["weight_decay"] >= 0:
            raise ValueError(f"Expected weight_decay of at least 0, got {group['weight_decay']}.")
        if total is None and self.NEEDS_TOTAL_STEPS:  # export if decays
            raise ValueError(
                f"Expected total_steps, since the rule has decays ({self.RULE}), got None. Give the number of steps of the run."
            )
        if total is not None and not (isinstance(total, int) and total >= 1):
            raise ValueError(f"Expected total_steps of at least 1, got {total!r}.")
        for other in ("foreach", "differentiable"):
            if group["fused"] and group[other]:
                raise RuntimeError(f"Expected at most one of fused and {other}, got both.")
        if group["differentiable"] and group["foreach"]:
            raise RuntimeError("Expected differentiable without foreach, which writes in place.")
        if group["differentiable"] and group["flat"]:  # export never
            raise RuntimeError("Expected differentiable without flat, which writes in place.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()  # export if decays
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; its tensors keep their own precision, which torch would reduce to the parameter's."""
        seen: list[dict[str, Any]] = []

        def remember(_: Optimizer, loaded: dict[str, Any]) -> None:
            seen.append(loaded)

        handle = self.register_load_state_dict_pre_hook(remember)
        restore = self.register_load_state_dict_post_hook(lambda _: self._restore_precision(seen[-1]), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            restore.remove()

    def _restore_precision(self, loaded: dict[str, Any]) -> None:
        indices = [index for group in loaded["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(indices, params, strict=True):
            for key, value in loaded["state"].get(index, {}).items():
                if isinstance(value, Tensor):  # a copy: torch would share what needs no cast with the optimizer that it came from
                    old = self.state[p][key]
                    self.state[p][key] = old.clone() if key == "step" else value.to(device=p.device, dtype=state_dtype(p), copy=True)

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient. With lr = 0 no parameter moves.

        Args:
            closure: computes the loss anew; run once with gradients enabled.
        Returns:
            What the closure returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for group in self.param_groups:
            if again := self._again(group):  # export never
                self._step_group(group, again)
                continue
            work = Work([], [], [], [[] for _ in self.STATES])
            self._init_group(group, work.params, work.grads, work.steps, *work.states)
            if self.DRAWS:  # export inline if draws
                firsts = []
                for p in group["params"]:
                    if p.grad is not None:
                        firsts.append(first + shard_offset(p))
                    first += p.numel()
                work = work._replace(firsts=firsts)
            if work.params:
                self._step_group(group, work)
        return loss

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], steps: list[Tensor], *states: list[Tensor]
    ) -> None:
        """Collects what a step works on, and creates the state of parameters that are new."""
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                raise RuntimeError(f"Expected a dense gradient, got a sparse one: {type(self).__name__} does not support sparse gradients.")
            state = self.state[p]
            if not state:
                device = p.device if group["capturable"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for name in self.STATES:
                    state[name] = torch.zeros_like(p, dtype=state_dtype(p), memory_format=torch.preserve_format)
            params.append(p)
            grads.append(p.grad)
            steps.append(state["step"])
            for values, name in zip(states, self.STATES, strict=True):
                values.append(state[name])

    def _step_group(self, group: dict[str, Any], work: Work) -> None:
        """Chooses how the group's step is run, and runs it."""
        if torch.compiler.is_compiling() or group["capturable"] or group["differentiable"]:
            self._step_on_tensors(group, work)
            return
        if work.params[0].is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "Expected capturable=True while a CUDA graph is captured, got False. Build the optimizer with capturable=True."
            )
        lr = float(group["lr"])
        if group["flat"] and self._step_flat(group, work, lr):  # export never
            return
        fused = self._is_fused(group, work, lr)  # export if kernel
        for part in work.by_step():
            numbers = self._numbers(part.t, group["total_steps"])
            keys = self._keys(group, part.t)
            if group["fused"] and lr != 0 and part.params[0].device.type != "cpu":
                self._step_compiled(group, part, numbers, keys, lr)
            elif fused:  # export if kernel
                self._step_fused(group, part, numbers, keys, lr)
            elif group["foreach"] if group["foreach"] is not None else part.params[0].is_cuda:
                self._step_many(group, part, numbers, keys, lr)
            else:
                for i in range(len(part.params)):
                    self._step_one(group, part, i, numbers, keys, lr)
        torch._foreach_add_(work.steps, 1)

    def _is_fused(self, group: dict[str, Any], work: Work, lr: float) -> bool:
        """Whether a compiled kernel runs the step: as asked, else where it pays, on large models on the CPU."""
        fused = group["fused"]
        if fused is None:
            fused = not group["foreach"] and sum(p.numel() for p in work.params) >= _LARGE
        if group["fused"] is None and group["flat"]:  # export never
            return False
        return bool(fused) and lr != 0 and all(p.device.type == "cpu" and not p.is_complex() for p in work.params)

    def _given(self, group: dict[str, Any], lr: Any) -> dict[str, Any]:
        """The hyperparameters that a step needs."""
        return {
            "lr": lr,
            "keep": 1 - lr * group["weight_decay"],
            "momentum": group["momentum"],  # export if momentum
        }

    def _step_fused(self, group: dict[str, Any], work: Work, numbers: tuple[float, ...], keys: list[Any], lr: float) -> None:
        """Every parameter that a kernel can take in one call; the others by themselves."""
        calls: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
        for i, (p, g) in enumerate(zip(work.params, work.grads, strict=True)):
            ready = type(p) in (Tensor, torch.nn.Parameter) and p.is_contiguous()
            ready = ready and all(s[i].is_contiguous() and s[i].dtype is torch.float32 for s in work.states)
            calls.setdefault((p.dtype, g.dtype) if ready else (torch.bool, torch.bool), []).append(i)
        for (dtype, grad_dtype), members in calls.items():
            kernel = fused_step(type(self).advance, len(self.STATES), self.DRAWS, dtype, grad_dtype, group["maximize"])
            if kernel is None:
                for i in members:
                    self._step_one(group, work, i, numbers, keys, lr)
                continue
            tensors = [[work.params[i], work.grads[i].contiguous(), *(values[i] for values in work.states)] for i in members]
            uniforms: list[list[int]] = [[] for _ in members]
            if self.DRAWS:  # export inline if draws
                for i, row, own in zip(members, tensors, uniforms, strict=True):
                    row += [draw(self.DRAWS[d], keys[d] + work.firsts[i], work.params[i]) for d in kernel.kernel.normals]
                    own += [keys[d] + work.firsts[i] for d in kernel.kernel.uniforms]
            kernel(tensors, [*self._given(group, lr).values(), *numbers], uniforms)

    def _step_compiled(self, group: dict[str, Any], work: Work, numbers: tuple[float, ...], keys: list[Any], lr: float) -> None:
        """Through torch.compile, on accelerators: tensors that are dense and plain with one kernel, the others by themselves."""
        given = self._given(group, lr)
        kernel = compiled_step(type(self).advance, tuple(given), self.DRAWS, group["maximize"])
        values = [*given.values(), *numbers]
        for i, p in enumerate(work.params):
            tensors = [p, work.grads[i], *(values[i] for values in work.states)]
            if hasattr(p, "to_local") or p.is_complex() or not all(tensor.is_contiguous() for tensor in tensors):
                self._step_one(group, work, i, numbers, keys, lr)
                continue
            if self.ELEMENTWISE:  # export inline if elementwise
                tensors = [tensor.view(-1) for tensor in tensors]
            w, g, *states = tensors
            scalars = torch.tensor(values, dtype=torch.float64 if p.dtype is torch.float64 else torch.float32, device=p.device)
            keys_of_p = torch.tensor([key + work.firsts[i] for key in keys], dtype=torch.int64, device=p.device)
            kernel(w.detach(), g, states, scalars, keys_of_p)

    def _step_flat(self, group: dict[str, Any], work: Work, lr: float) -> bool:  # export never
        """The step on one buffer; False if the parameters cannot be laid end to end."""
        bucket = self._bucket(group, work)
        if bucket is None:
            return False
        work = work._replace(states=bucket.state_views, steps=bucket.step_views)
        flat = Work([bucket.params], [bucket.gather(work.grads)], work.steps[:1], bucket.states, work.firsts[:1])
        numbers = self._numbers(flat.t, group["total_steps"])
        keys = self._keys(group, flat.t)
        if self._is_fused(group, work, lr):
            self._step_fused(group, flat if self.ELEMENTWISE else work, numbers, keys, lr)
        elif group["fused"] and lr != 0 and work.params[0].device.type != "cpu":
            self._step_compiled(group, work, numbers, keys, lr)
        elif lr == 0 or not bucket.interpret(type(self), group, [*self._given(group, lr).values(), *numbers]):
            self._step_one(group, flat, 0, numbers, keys, lr, bucket)
        torch._foreach_add_([bucket.counts], 1)
        return True

    def _again(self, group: dict[str, Any]) -> Work | None:  # export never
        bucket = None if self.DRAWS else self._buckets.get(id(group))
        return bucket.again(group["params"], self.state) if bucket and group["flat"] else None

    def _bucket(self, group: dict[str, Any], work: Work) -> FlatBucket | None:  # export never
        """The buffers of these parameters; None if they cannot be laid end to end."""
        bucket = self._buckets.get(id(group))
        if bucket is not None and (work.steps is bucket.step_views or bucket.holds(work.params, work.states, work.steps)):
            return bucket
        if not FlatBucket.takes(work.params, work.steps, work.firsts):
            return None
        bucket = self._buckets[id(group)] = FlatBucket(work.params, work.states, work.steps, self.STATES)
        for i, p in enumerate(work.params):
            self.state[p]["step"] = bucket.step_views[i]
            self.state[p].update(zip(self.STATES, (views[i] for views in bucket.state_views), strict=True))
        return bucket

    def _keys(self, group: dict[str, Any], t: Any) -> list[Any]:
        return [stream_key(group["seed"], t, stream) for stream in range(len(self.DRAWS))]

    def _numbers(self, t: int, total: int | None) -> tuple[float, ...]:
        """The rule's numbers at step t (from 0)."""
        if total is not None and t >= total and self.NEEDS_TOTAL_STEPS and not self._warned:  # export if decays
            self._warned = True
            warnings.warn(f"{type(self).__name__} goes on past its {total} total_steps: decays hold their last value.", stacklevel=4)
        return numbers_of(self.numbers, t, total)

    def _step_one(
        self,
        group: dict[str, Any],
        work: Work,
        i: int,
        numbers: tuple[Any, ...],
        keys: list[Any],
        lr: Any,
        bucket: FlatBucket | None = None,
    ) -> None:
        """One parameter's step, in place; what is no tensor of its shape is a number, or a tensor without dimensions."""
        p, g, states = work.params[i], work.grads[i], [values[i] for values in work.states]
        reduce = ReduceSharded(p) if hasattr(p, "to_local") else Reduce()
        if bucket is not None:  # export never
            reduce = bucket.reduce
        target, g, states = plain(p), plain(g), [plain(state) for state in states]
        w = target.clone() if group["differentiable"] else target
        if w.dtype in LOW_PRECISION:
            w, g = w.float(), g.float()
        if group["maximize"]:
            g = -g
        draws = [draw(primitive, key + work.firsts[i], w) for primitive, key in zip(self.DRAWS, keys, strict=True)]
        w_next, *states_next = self.advance(w, g, *states, *numbers, *draws, **self._given(group, lr), reduce=reduce)
        if isinstance(lr, Tensor):
            w_next = torch.where(lr == 0, w, w_next)
        if isinstance(lr, Tensor) or lr != 0:
            target.copy_(w_next)
        for name, state, state_next in zip(self.STATES, states, states_next, strict=True):
            if group["differentiable"]:  # the old value may be needed by autograd
                self.state[p][name] = torch.view_as_complex(state_next) if p.is_complex() else state_next.clone()
            else:
                state.copy_(state_next)

    def _step_many(self, group: dict[str, Any], work: Work, numbers: tuple[float, ...], keys: list[Any], lr: float) -> None:
        """The same on lists of tensors."""
        if any(hasattr(p, "to_local") for p in work.params):
            for i in range(len(work.params)):
                self._step_one(group, work, i, numbers, keys, lr)
            return
        targets, grads = [plain(p) for p in work.params], [plain(g) for g in work.grads]
        states = [[plain(state) for state in values] for values in work.states]
        w = Many([x.float() if x.dtype in LOW_PRECISION else x for x in targets])
        g = Many([x.float() if x.dtype in LOW_PRECISION else x for x in grads])
        draws = [
            Many([draw(primitive, key + first, x) for first, x in zip(work.firsts, w.tensors, strict=True)])
            for primitive, key in zip(self.DRAWS, keys, strict=True)
        ]
        g = -g if group["maximize"] else g
        reduce = ReduceEach()
        w_next, *states_next = self.advance(w, g, *map(Many, states), *numbers, *draws, **self._given(group, lr), reduce=reduce)
        if lr != 0:
            torch._foreach_copy_(targets, w_next.tensors)
        for values, values_next in zip(states, states_next, strict=True):
            torch._foreach_copy_(values, values_next.tensors)

    def _step_on_tensors(self, group: dict[str, Any], work: Work) -> None:
        """The same with the step count and all that depends on it as tensors, so that nothing has to be read back or compiled anew."""
        lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
        for i, step in enumerate(work.steps):
            numbers = self.numbers(step.to(torch.float64), group["total_steps"])
            keys = self._keys(group, step.to(torch.int64))
            self._step_one(group, work, i, numbers, keys, lr)
            step += 1
