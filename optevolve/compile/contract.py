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
from optevolve.compile.work import LOW_PRECISION, Work, plain, shard_offset, state_dtype

__all__ = ["RuleOptimizer"]

_CHUNK = 512  # steps whose numbers are computed at once
_CHUNKS = 16  # that are remembered
_LARGE = 2**20  # elements from which on a compiled kernel pays


class RuleOptimizer(Optimizer):
    """Base of the optimizers of update rules.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, a number of at least 0 or a tensor of one element; None: the recommended one, where there is one.
        total_steps: length of the run T, needed if the rule has decays; past the end they hold.
        momentum: of the kinds momentum and nesterov, in [0, 1]; the plain kind ignores it. Schedulers may set it.
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
        lr = self.LEARNING_RATE if lr is None else lr
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "total_steps": total_steps, "seed": seed, "maximize": maximize,
            "foreach": foreach, "fused": fused, "flat": flat, "capturable": capturable, "differentiable": differentiable,
        }  # fmt: skip
        self._forget()
        self._check(defaults)
        super().__init__(params, defaults)

    def _forget(self) -> None:
        """Drops what can be made anew: it is no part of the state."""
        self._buckets: dict[int, FlatBucket] = {}
        self._rows: dict[tuple[int | None, int], list[tuple[float, ...]]] = {}
        self._warned = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group after checking its settings; see `torch.optim.Optimizer.add_param_group`."""
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        lr, name = group["lr"], type(self).__name__
        if lr is None:
            raise ValueError(f"Expected lr, since no learning rate is recommended for {name}, got None.")
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
        total = group["total_steps"]
        if total is None and self.NEEDS_TOTAL_STEPS:
            raise ValueError(f"Expected total_steps, since {name} has decays ({self.RULE}), got None. Give the number of steps of the run.")
        if total is not None and not (isinstance(total, int) and total >= 1):
            raise ValueError(f"Expected total_steps of at least 1, got {total!r}.")
        for other in ("foreach", "differentiable"):
            if group["fused"] and group[other]:
                raise RuntimeError(f"Expected at most one of fused and {other}, got both.")
        if group["differentiable"] and (group["foreach"] or group["flat"]):
            raise RuntimeError("Expected differentiable without foreach and flat, which write in place.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
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
        numbers = [number for group in loaded["param_groups"] for number in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, params, strict=True):
            for key, value in loaded["state"].get(number, {}).items():
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
            work = Work([], [], [], [[] for _ in self.STATES], [])
            self._init_group(group, work.params, work.grads, work.steps, *work.states)
            if self.DRAWS:
                for p in group["params"]:
                    if p.grad is not None:
                        work.firsts.append(first + shard_offset(p))
                    first += p.numel()
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
        lr, total = float(group["lr"]), group["total_steps"]
        bucket = self._bucket(group, work) if group["flat"] else None
        if bucket is not None:
            work = work._replace(states=bucket.state_views, steps=bucket.step_views)
            flat = Work([bucket.params], [bucket.gather(work.grads)], work.steps[:1], bucket.states, work.firsts[:1])
        if self._is_fused(group, work, lr):
            self._step_fused(group, flat if bucket is not None and self.ELEMENTWISE else work, lr)
        elif group["fused"] and lr != 0 and work.params[0].device.type != "cpu":
            self._step_compiled(group, work, lr)
        elif bucket is not None:
            t = int(flat.steps[0].item())
            self._step_one(group, flat, 0, self._row(t, total), self._keys(group, t), lr, bucket.reduce)
        elif group["foreach"] if group["foreach"] is not None else work.params[0].is_cuda:
            for t, part in work.by_step():
                self._step_many(group, part, self._row(t, total), self._keys(group, t), lr)
        else:
            for t, part in work.by_step():
                row, keys = self._row(t, total), self._keys(group, t)
                for i in range(len(part.params)):
                    self._step_one(group, part, i, row, keys, lr)
        torch._foreach_add_([bucket.counts] if bucket is not None else work.steps, 1)

    def _is_fused(self, group: dict[str, Any], work: Work, lr: float) -> bool:
        """Whether a compiled kernel runs the step: as asked, else where it pays, on large models on the CPU."""
        fused = group["fused"]
        if fused is None:
            fused = not group["foreach"] and not group["flat"] and sum(p.numel() for p in work.params) >= _LARGE
        return bool(fused) and lr != 0 and all(p.device.type == "cpu" and not p.is_complex() for p in work.params)

    def _step_fused(self, group: dict[str, Any], work: Work, lr: float) -> None:
        """Every parameter that a kernel can take in one call; the others by themselves."""
        for t, part in work.by_step():
            row, keys = self._row(t, group["total_steps"]), self._keys(group, t)
            calls: dict[tuple[torch.dtype, torch.dtype], list[int]] = {}
            for i, (p, g) in enumerate(zip(part.params, part.grads, strict=True)):
                ready = type(p) in (Tensor, torch.nn.Parameter) and p.is_contiguous()
                ready = ready and all(s[i].is_contiguous() and s[i].dtype is torch.float32 for s in part.states)
                calls.setdefault((p.dtype, g.dtype) if ready else (torch.bool, torch.bool), []).append(i)
            for (dtype, grad_dtype), members in calls.items():
                kernel = fused_step(type(self).advance, len(self.STATES), self.DRAWS, dtype, grad_dtype, group["maximize"])
                if kernel is None:
                    for i in members:
                        self._step_one(group, part, i, row, keys, lr)
                    continue
                tensors, shifted = [], []
                for i in members:
                    own = [key + part.firsts[i] for key in keys]
                    noise = [draw(self.DRAWS[d], own[d], part.params[i]) for d in kernel.kernel.normals]
                    tensors.append([part.params[i], part.grads[i].contiguous(), *(values[i] for values in part.states), *noise])
                    shifted.append([own[d] for d in kernel.kernel.uniforms])
                kernel(tensors, (lr, 1 - lr * group["weight_decay"], group["momentum"], *row), shifted)

    def _step_compiled(self, group: dict[str, Any], work: Work, lr: float) -> None:
        """Through torch.compile, on accelerators: tensors that are dense and plain with one kernel, the others by themselves."""
        kernel = compiled_step(type(self).advance, self.DRAWS, group["maximize"])
        for t, part in work.by_step():
            row, keys = self._row(t, group["total_steps"]), self._keys(group, t)
            given = (lr, 1 - lr * group["weight_decay"], group["momentum"], *row)
            for i, p in enumerate(part.params):
                tensors = [p, part.grads[i], *(values[i] for values in part.states)]
                if hasattr(p, "to_local") or p.is_complex() or not all(tensor.is_contiguous() for tensor in tensors):
                    self._step_one(group, part, i, row, keys, lr)
                    continue
                w, g, *states = [tensor.view(-1) for tensor in tensors] if self.ELEMENTWISE else tensors
                numbers = torch.tensor(given, dtype=torch.float64 if p.dtype is torch.float64 else torch.float32, device=p.device)
                shifted = torch.tensor([key + part.firsts[i] for key in keys], dtype=torch.int64, device=p.device)
                kernel(w.detach(), g, states, numbers, shifted)

    def _bucket(self, group: dict[str, Any], work: Work) -> FlatBucket | None:
        """The buffers of these parameters; None if they cannot be laid end to end."""
        bucket = self._buckets.get(id(group))
        if bucket is not None and bucket.holds(work.params, work.states, work.steps):
            return bucket
        if not FlatBucket.takes(work.params, work.steps, work.firsts):
            return None
        bucket = self._buckets[id(group)] = FlatBucket(work.params, work.states, work.steps)
        for i, p in enumerate(work.params):
            self.state[p]["step"] = bucket.step_views[i]
            self.state[p].update(zip(self.STATES, (views[i] for views in bucket.state_views), strict=True))
        return bucket

    def _keys(self, group: dict[str, Any], t: Any) -> list[Any]:
        return [stream_key(group["seed"], t, stream) for stream in range(len(self.DRAWS))]

    def _row(self, t: int, total: int | None) -> tuple[float, ...]:
        """The numbers of step t (from 0)."""
        if total is not None and t >= total and self.NEEDS_TOTAL_STEPS and not self._warned:
            self._warned = True
            warnings.warn(f"{type(self).__name__} goes on past its {total} total_steps: decays hold their last value.", stacklevel=4)
        chunk, at = divmod(t, _CHUNK)
        rows = self._rows.get((total, chunk))
        if rows is None:
            t_values = torch.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK, dtype=torch.float64)
            columns = [column.tolist() for column in self.numbers(t_values, total)]
            rows = list(zip(*columns, strict=True)) if columns else [()] * _CHUNK
            if len(self._rows) >= _CHUNKS:
                self._rows.clear()
            self._rows[total, chunk] = rows
        return rows[at]

    def _step_one(
        self, group: dict[str, Any], work: Work, i: int, numbers: tuple[Any, ...], keys: list[Any], lr: Any, reduce: Reduce | None = None
    ) -> None:
        """One parameter's step, in place; numbers, keys and lr are numbers or tensors without dimensions."""
        p, g, states = work.params[i], work.grads[i], [values[i] for values in work.states]
        reduce = reduce or (ReduceSharded(p) if hasattr(p, "to_local") else Reduce())
        target, g, states = plain(p), plain(g), [plain(state) for state in states]
        w = target.clone() if group["differentiable"] else target
        if w.dtype in LOW_PRECISION:
            w, g = w.float(), g.float()
        if group["maximize"]:
            g = -g
        draws = [draw(primitive, key + work.firsts[i], w) for primitive, key in zip(self.DRAWS, keys, strict=True)]
        keep = 1 - lr * group["weight_decay"]
        w_next, *states_next = self.advance(w, g, *states, *numbers, *draws, lr=lr, keep=keep, momentum=group["momentum"], reduce=reduce)
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
        keep = 1 - lr * group["weight_decay"]
        w_next, *states_next = self.advance(
            w, -g if group["maximize"] else g, *map(Many, states), *numbers, *draws, lr=lr, keep=keep, momentum=group["momentum"],
            reduce=ReduceEach(),
        )  # fmt: skip
        if lr != 0:
            torch._foreach_copy_(targets, w_next.tensors)
        for values, values_next in zip(states, states_next, strict=True):
            torch._foreach_copy_(values, values_next.tensors)

    def _step_on_tensors(self, group: dict[str, Any], work: Work) -> None:
        """The same with the step count and all that depends on it as tensors, so that nothing has to be read back or compiled anew."""
        lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
        for i, step in enumerate(work.steps):
            numbers = self.numbers(step.to(torch.float64), group["total_steps"])
            self._step_one(group, work, i, numbers, self._keys(group, step.to(torch.int64)), lr)
            step += 1
