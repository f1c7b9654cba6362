"""Parameters as views of one buffer, so that a step costs a handful of calls however many tensors there are. Needs only torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from optevolve.compile.program import program_for
from optevolve.compile.reduce import ReduceFlat
from optevolve.compile.work import Work

__all__ = ["FlatBucket", "lay_flat"]


_Rule = TypeVar("_Rule", bound=Any)


def lay_flat(optimizer: _Rule, flat: bool = True) -> _Rule:
    """Lets an optimizer of a rule keep its parameters in buffers, or not. For a training loop that owns the model: whoever looks at the
    parameters' storages (safetensors, shared memory, buckets of distributed training) meets one of all.

    Args:
        optimizer: a `RuleOptimizer`, before its first step; one that is differentiable stays as it is.
        flat: whether to.
    Returns:
        The optimizer.
    """
    optimizer._flat = flat and not optimizer.defaults["differentiable"]
    return optimizer


class FlatBucket:
    """Parameters of one dtype and device, with their states and step counts, laid end to end.

    The tensors themselves become views of the buffers, so models, checkpoints and other users of theirs see no difference. Tensors that are
    replaced later, by `model.to` or by loading a state, are noticed (`holds`), and a new bucket is made.

    Args:
        params: parameters that have a gradient.
        states: one list per state of the rule, each with a tensor per parameter.
        steps: step counts, one per parameter.
        names: of the states.
    Attributes:
        params: the parameters' buffer, of one dimension.
        states: a list of one buffer per state.
        counts: the step counts, shape (parameters,).
        reduce: reductions of the buffers, parameter by parameter.
        state_views, step_views: the tensors that take the place of the states and step counts given.
    """

    def __init__(self, params: list[Tensor], states: list[list[Tensor]], steps: list[Tensor], names: Sequence[str]) -> None:
        shapes = [p.shape for p in params]
        self.reduce = ReduceFlat(shapes)
        sizes = self.reduce.sizes

        def views(flat: Tensor) -> list[Tensor]:
            return [piece.view(shape) for piece, shape in zip(torch.split(flat, sizes), shapes, strict=True)]

        with torch.no_grad():
            self.params = self._join(params)
            for p, view in zip(params, views(self.params), strict=True):
                p.data = view
            self.grad = torch.empty_like(self.params)
            self.grad_views = views(self.grad)
            self.states = [[self._join(values)] for values in states]
            self.state_views = [views(values[0]) for values in self.states]
            self.counts = torch.stack(steps)
            self.step_views = list(self.counts.unbind())
        self.members = [
            (p, p.data_ptr(), [("step", self.step_views[i]), *zip(names, (views[i] for views in self.state_views), strict=True)])
            for i, p in enumerate(params)
        ]
        self.pointers = self._pointers(params, self.state_views, self.step_views)

    @staticmethod
    def _join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    @staticmethod
    def _pointers(params: list[Tensor], states: list[list[Tensor]], steps: list[Tensor]) -> list[int]:
        return [tensor.data_ptr() for tensors in (params, steps, *states) for tensor in tensors]

    @staticmethod
    def takes(params: list[Tensor], steps: list[Tensor], firsts: Sequence[int]) -> bool:
        """Whether these parameters can be laid end to end: plain real tensors of one dtype and device, at the same step."""
        p = params[0]
        return (
            all(type(q.data) is Tensor and q.dtype == p.dtype and q.device == p.device for q in params)
            and not p.is_complex()
            and all(first + q.numel() == after for first, q, after in zip(firsts, params, firsts[1:], strict=False))
            and len({step.item() for step in steps}) == 1
        )

    def holds(self, params: list[Tensor], states: list[list[Tensor]], steps: list[Tensor]) -> bool:
        """Whether exactly these tensors are still the buffers' views."""
        return self.pointers == self._pointers(params, states, steps)

    def again(self, params: list[Tensor], state: Mapping[Tensor, Mapping[str, Tensor]]) -> Work | None:
        """What a step works on, where these are the very parameters, states and counts of the bucket, and all have a dense gradient.

        Asked at every step: on small models, collecting it anew takes as long as the step's arithmetic.
        """
        grads = [p.grad for p in params]
        if len(params) != len(self.members):
            return None
        for p, grad, (known, first, views) in zip(params, grads, self.members, strict=True):
            if p is not known or grad is None or grad.layout != torch.strided or p.data_ptr() != first:
                return None
            own = state[p]
            for name, view in views:
                if own.get(name) is not view:
                    return None
        return Work(params, cast(list[Tensor], grads), self.step_views, self.state_views)

    def interpret(self, rule: Any, group: Mapping[str, Any], scalars: Sequence[float]) -> bool:
        """One step on the whole buffer by the kernel that knows every operator; False where it cannot take the step.

        Args:
            rule: the optimizer's class.
            group: the settings of the parameters; with `fused` given either way, another execution is asked for.
            scalars: the hyperparameters and the rule's numbers of this step.
        """
        if self.params.device.type != "cpu" or any(values[0].dtype != torch.float32 for values in self.states):
            return False
        program = program_for(rule, group, self.params.dtype, self.grad.dtype)
        if program is not None:
            program([[self.params, self.grad, *(values[0] for values in self.states)]], scalars)
        return program is not None

    def gather(self, grads: list[Tensor]) -> Tensor:
        """The gradients laid end to end."""
        torch._foreach_copy_(self.grad_views, grads)
        return self.grad
