"""What every optimizer of a rule is beyond its equation: a `torch.optim.Optimizer` that keeps the whole contract. Needs only torch.

A subclass brings `numbers` and `advance`, which `optevolve.compile.emit` writes from the rule.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, _use_grad_for_differentiable

from optevolve.compile.checkpoint import check_checkpoint, check_state, scalar_step, tell_changed
from optevolve.compile.compiled import compiled_step
from optevolve.compile.draws import draw, stream_key
from optevolve.compile.eager import add_param_group, eager
from optevolve.compile.flat import FlatBucket
from optevolve.compile.kernel import fused_step
from optevolve.compile.packed import join, parts, scatter
from optevolve.compile.program import program_for
from optevolve.compile.reduce import reduce_of
from optevolve.compile.settings import GROUP_KEYS, check_settings, unknown_settings
from optevolve.compile.work import CHUNK, LOW_PRECISION, Work, numbers_of, plain, shard_offset, state_dtype, step_count

__all__ = ["RuleOptimizer"]

_LARGE = 2**20  # elements from which on a compiled kernel pays at the first step
_PATIENCE = 4  # steps after which it pays on small models: its one compilation is kept for later runs
_SMALL = 2**18  # elements up to which the kernel that all rules share is as good as the rule's own  # export never
_PLAIN = {Tensor, torch.nn.Parameter}


class RuleOptimizer(Optimizer):
    """Base of the optimizers of update rules.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, a number of at least 0 or a tensor of one element; None: the recommended one, where there is one.
        total_steps: length of the run T, a whole number, needed if the rule has decays; past the end they hold.
        momentum: in [0, 1]; rules of the plain kind have none and ignore it. Schedulers may set it.
        weight_decay: decoupled: w <- w (1 - lr weight_decay) beside the rule's own step; None: the recommended one, 0 for most rules.
        seed: of dropout and noise.
        maximize: climb instead of descend.
        foreach: run the step on many tensors at once, a bounded part of the model at a time; None: where nothing else is asked for.
        fused: run the step as one compiled kernel; None: where that pays.
        capturable: keep the step count on the parameter's device, so that the step can be captured in a CUDA graph.
        differentiable: let autograd see the step.
    Raises:
        TypeError: if an argument is unknown.
        ValueError: if an argument is out of range, or total_steps is missing.
        RuntimeError: if two ways to run the step exclude each other, or a gradient is sparse.
    """

    SOURCE: ClassVar[str]
    RULE: ClassVar[str]
    KIND: ClassVar[str]
    LEARNING_RATE: ClassVar[float | None]
    WEIGHT_DECAY: ClassVar[float]
    STATES: ClassVar[tuple[str, ...]]
    DRAWS: ClassVar[tuple[str, ...]]
    ELEMENTWISE: ClassVar[bool]
    NEEDS_TOTAL_STEPS: ClassVar[bool]
    _flat: bool = False  # see `optevolve.compile.flat.lay_flat`
    numbers: ClassVar[Callable[..., tuple[Any, ...]]]
    advance: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        total_steps: int | None = None,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        *,
        seed: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **unknown: Any,
    ) -> None:
        lr = self.LEARNING_RATE if lr is None else lr  # export never
        weight_decay = self.WEIGHT_DECAY if weight_decay is None else weight_decay  # export never
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "total_steps": total_steps, "maximize": maximize,
            "foreach": foreach, "fused": fused, "capturable": capturable, "differentiable": differentiable, "rule": self.RULE,
        }  # fmt: skip
        defaults["seed"] = seed  # export if draws
        self._forget()  # export never
        self._warned = False  # export if decays
        if unknown:
            raise TypeError(unknown_settings(type(self).__name__, defaults, unknown))
        check_settings(type(self).__name__, defaults, self.NEEDS_TOTAL_STEPS)
        super().__init__(params, defaults)

    def _forget(self) -> None:  # export never
        """Drops what can be made anew: it is no part of the state."""
        self._buckets: dict[int, FlatBucket] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group after checking its settings; see `torch.optim.Optimizer.add_param_group`."""
        settings = {**self.defaults, **param_group}
        check_settings(type(self).__name__, settings, self.NEEDS_TOTAL_STEPS)
        total = settings["total_steps"]
        if unknown := sorted(set(settings) - set(self.defaults) - GROUP_KEYS):
            warnings.warn(f"In a group of parameters: {unknown_settings(type(self).__name__, self.defaults, unknown)}", stacklevel=2)
        param_group.update(rule=self.RULE, total_steps=None if total is None else step_count(total))
        add_param_group(self, param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()  # export never
        self._warned = False  # export if decays
        for group in self.param_groups:
            group.pop("flat", None)  # a setting of older versions  # export never
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            for p in group["params"]:
                if "step" in self.state.get(p, ()):
                    self.state[p]["step"] = scalar_step(self.state[p]["step"], p.device if group["capturable"] else "cpu")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this rule; its tensors keep their own precision, which torch would reduce to the parameter's.

        Raises:
            ValueError: if another optimizer or rule has written it, parameters have other shapes or another order, or a state is no dense
                tensor of its parameter's shape; nothing is loaded then.
        """
        seen: list[dict[str, Any]] = []
        before = [dict(group) for group in self.param_groups]

        def remember(_: Optimizer, loaded: dict[str, Any]) -> None:
            check_checkpoint(type(self).__name__, self.RULE, self.STATES, loaded, self.param_groups)
            seen.append(loaded)

        with ExitStack() as held:
            held.enter_context(self.register_load_state_dict_pre_hook(remember))
            held.enter_context(self.register_load_state_dict_post_hook(lambda _: self._restore(seen[-1]), prepend=True))  # export if states
            super().load_state_dict(state_dict)
        for group, given, saved in zip(self.param_groups, before, seen[-1]["param_groups"], strict=True):
            if self.WEIGHT_DECAY and "rule" not in saved:  # written when this decay was part of the rule  # export never
                group["weight_decay"] += self.WEIGHT_DECAY
            tell_changed("weight_decay", group, given, saved)
            if self.NEEDS_TOTAL_STEPS:  # export inline if decays
                tell_changed("total_steps", group, given, saved)

    def _restore(self, loaded: dict[str, Any]) -> None:  # export if states
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            for p, index in zip(group["params"], saved["params"], strict=True):
                for key in self.STATES if self.state[p] else ():  # a copy: torch would share what needs no cast with the state's owner
                    self.state[p][key] = loaded["state"][index][key].to(p.device, state_dtype(p), copy=True)

    @eager  # export never
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient. With lr = 0 no parameter moves.

        Args:
            closure: computes the loss anew; run once with gradients enabled.
        Returns:
            What the closure returns; None without one.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
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
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device if group["capturable"] else "cpu")
                for name in self.STATES:  # export if states
                    state[name] = torch.zeros_like(p, dtype=state_dtype(p), memory_format=torch.preserve_format)
            elif "step" not in state or any(not isinstance(s := state.get(name), Tensor) or s.shape != p.shape for name in self.STATES):
                check_state(type(self).__name__, self.STATES, p, state)
            if p.grad.shape != p.shape:
                raise RuntimeError(f"Expected a gradient of shape {tuple(p.shape)}, got {tuple(p.grad.shape)}. Compute it anew.")
            params.append(p)
            grads.append(p.grad)
            steps.append(state["step"])
            for values, name in zip(states, self.STATES, strict=True):  # export if states
                values.append(state[name])

    def _step_group(self, group: dict[str, Any], work: Work) -> None:
        """Chooses how the group's step is run, and runs it."""
        if torch.compiler.is_compiling() or group["capturable"] or group["differentiable"]:
            lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
            for i in range(len(work.params)):  # with the step count as a tensor, so that nothing has to be read back or compiled anew
                part, step = work.only([i]), work.steps[i]
                numbers = self.numbers(step.to(torch.float64), group["total_steps"])
                keys = self._keys(group, step.to(torch.int64))
                self._step_part(group, part, numbers, keys, lr)
                step += 1
            return
        if work.params[0].is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("Expected capturable=True while a CUDA graph is captured, got False. Build the optimizer with it.")
        lr = float(group["lr"])
        if self._flat and self._step_flat(group, work, lr):  # export never
            return
        for t, part in work.by_step():
            numbers = self._numbers(t, group["total_steps"])
            keys = self._keys(group, t)
            fused = group["fused"]
            if fused is None and group["foreach"] is None and not self._flat and part.params[0].is_cpu:
                fused = t >= _PATIENCE or sum(p.numel() for p in part.params) >= _LARGE
            if fused and lr != 0 and not part.params[0].is_cpu:
                self._step_compiled(group, part, numbers, keys, lr)
            elif fused and lr != 0:  # export if kernel
                self._step_fused(group, part, numbers, keys, lr)
            else:
                self._step_plain(group, part, numbers, keys, lr)
        torch._foreach_add_(work.steps, 1)

    def _given(self, group: dict[str, Any], lr: Any) -> dict[str, Any]:
        """The hyperparameters that a step needs."""
        return {"lr": lr, "keep": 1 - lr * group["weight_decay"], "momentum": group["momentum"]}

    def _kernel(self, group: dict[str, Any], work: Work, weights: torch.dtype, gradient: torch.dtype) -> Any:  # export never
        """The compiled kernel for these element types, of the rule or, for a small model, of all rules; None if there is none."""
        if sum(p.numel() for p in work.params) <= _SMALL and (program := program_for(type(self), group, weights, gradient)):
            return program
        return fused_step(type(self).advance, len(self.STATES), self.DRAWS, weights, gradient, group["maximize"])

    def _step_fused(self, group: dict[str, Any], work: Work, numbers: tuple[Any, ...], keys: list[Any], lr: Any) -> None:
        """Every parameter that a kernel can take in one call; the others without."""
        calls: dict[tuple[torch.dtype, torch.dtype] | None, list[int]] = {}
        for i, (p, g) in enumerate(zip(work.params, work.grads, strict=True)):
            ready = {type(p), type(g)} <= _PLAIN and p.is_contiguous() and p.is_cpu and g.is_cpu and not g.is_neg()
            for values in work.states:  # export if states
                s = values[i]
                ready = ready and type(s) in _PLAIN and s.dtype is torch.float32 and s.is_cpu and s.is_contiguous()
            calls.setdefault((p.dtype, g.dtype) if ready else None, []).append(i)
        for types, members in calls.items():
            if types is None or not (kernel := self._kernel(group, work, *types)):
                self._step_plain(group, work.only(members), numbers, keys, lr)
                continue
            tensors = [[work.params[i], work.grads[i].contiguous(), *(values[i] for values in work.states)] for i in members]
            changed = [tensor for row in tensors for tensor in (row[0], *row[2:])]
            uniforms: list[list[int]] = [[] for _ in members]
            if self.DRAWS:  # export inline if draws
                for i, row, own in zip(members, tensors, uniforms, strict=True):
                    row += [draw(self.DRAWS[d], keys[d] + work.firsts[i], work.params[i]) for d in kernel.normals]
                    own += [keys[d] + work.firsts[i] for d in kernel.uniforms]
            kernel(tensors, [*self._given(group, lr).values(), *numbers], uniforms)
            torch.autograd.graph.increment_version(changed)

    def _step_compiled(self, group: dict[str, Any], work: Work, numbers: tuple[float, ...], keys: list[Any], lr: float) -> None:
        """Through torch.compile, on accelerators: tensors that are dense and plain with one kernel, the others by themselves."""
        given = self._given(group, lr)
        kernel = compiled_step(type(self).advance, tuple(given), self.DRAWS, group["maximize"])
        values = [*given.values(), *numbers]
        for i, p in enumerate(work.params):
            tensors = [p, work.grads[i], *(values[i] for values in work.states)]
            if hasattr(p, "to_local") or p.is_complex() or not all(tensor.is_contiguous() for tensor in tensors):
                self._step_part(group, work.only([i]), numbers, keys, lr)
                continue
            if self.ELEMENTWISE:  # export inline if elementwise
                tensors = [tensor.view(-1) for tensor in tensors]
            w, g, *states = tensors
            scalars = torch.tensor(values, dtype=torch.float64 if p.dtype is torch.float64 else torch.float32, device=p.device)
            keys_of_p = torch.tensor([key + work.firsts[i] for key in keys], dtype=torch.int64, device=p.device)
            kernel(w.detach(), g, states, scalars, keys_of_p)
            torch.autograd.graph.increment_version([p, *(column[i] for column in work.states)])

    def _step_flat(self, group: dict[str, Any], work: Work, lr: float) -> bool:  # export never
        """The step on one buffer; False if the parameters cannot be laid end to end."""
        bucket = self._bucket(group, work)
        if bucket is None:
            return False
        work = work._replace(states=bucket.state_views, steps=bucket.step_views)
        flat = Work([bucket.params], [bucket.gather(work.grads)], work.steps[:1], bucket.states, work.firsts[:1])
        t = int(work.steps[0].item())
        numbers = self._numbers(t, group["total_steps"])
        keys = self._keys(group, t)
        large = group["fused"] is None and bucket.params.is_cpu and bucket.params.numel() >= _LARGE
        if (group["fused"] or large) and lr != 0:
            if work.params[0].is_cpu:
                self._step_fused(group, flat if self.ELEMENTWISE else work, numbers, keys, lr)
            else:
                self._step_compiled(group, work, numbers, keys, lr)
        elif lr == 0 or not bucket.interpret(type(self), group, [*self._given(group, lr).values(), *numbers]):
            self._step_part(group, flat, numbers, keys, lr, bucket.reduce)
        torch.autograd.graph.increment_version([*work.params, *(values[0] for values in bucket.states)])
        torch._foreach_add_([bucket.counts], 1)
        return True

    def _again(self, group: dict[str, Any]) -> Work | None:  # export never
        if torch.compiler.is_compiling() or not self._flat or self.DRAWS:  # what is compiled must not depend on where groups lie
            return None
        bucket = self._buckets.get(id(group))
        return bucket.again(group["params"], self.state) if bucket else None

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
        return numbers_of(self.numbers, t // CHUNK, total)[t % CHUNK]

    def _step_plain(self, group: dict[str, Any], work: Work, numbers: tuple[Any, ...], keys: list[Any], lr: Any) -> None:
        """As torch's own operations, on many small tensors at once unless each is to be taken by itself."""
        for part in parts(work, self.ELEMENTWISE, together=group["foreach"] is not False):
            self._step_part(group, part, numbers, keys, lr)

    def _step_part(self, group: dict[str, Any], part: Work, numbers: tuple[Any, ...], keys: list[Any], lr: Any, reduce: Any = None) -> None:
        """The step of one parameter, or of several end to end, in place."""
        p, targets, grads = part.params[0], [plain(p) for p in part.params], [plain(g) for g in part.grads]
        states = [[plain(state) for state in values] for values in part.states]
        reduce = reduce or reduce_of(part.params, targets)
        w, g, *before = (join(tensors) for tensors in (targets, grads, *states))
        w = w.clone() if group["differentiable"] else w
        w, g = (w.float(), g.float()) if w.dtype in LOW_PRECISION else (w, g)
        g = -g if group["maximize"] else g
        draws = [
            join([draw(primitive, key + first, x) for first, x in zip(part.firsts, targets, strict=True)])
            for primitive, key in zip(self.DRAWS, keys, strict=True)
        ]
        w_next, *after = self.advance(w, g, *before, *numbers, *draws, **self._given(group, lr), reduce=reduce)
        if isinstance(lr, Tensor) or lr != 0:
            scatter(targets, torch.where(lr == 0, w, w_next) if isinstance(lr, Tensor) else w_next)
        for name, values, value in zip(self.STATES, states, after, strict=True):
            if group["differentiable"]:  # the old value may be needed by autograd
                self.state[p][name] = torch.view_as_complex(value) if p.is_complex() else value.clone()
            else:
                scatter(values, value)
