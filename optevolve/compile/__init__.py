"""Rule to torch: source text, the optimizer that runs it, and the same text as a file of its own.

`build(rule, params, lr, total_steps=…)` is all that a training loop needs. For small models pass `flat=True`: from the first step on the
parameters and the rule's states are views of one buffer each, so that a step costs a handful of calls however many tensors there are:

    optimizer = build(rule, model.parameters(), lr=1e-2, total_steps=8000, flat=True, fused=False)
    for t in range(steps):
        for group in optimizer.param_groups:
            group["lr"], group["momentum"] = lrs[t], momenta[t]
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()

`lr` and `momentum` are read from the parameter groups at every step. `fused=False` keeps to plain torch operations: nothing is ever
compiled.

A rule runs in one of these ways, all from one text (`class_of(rule).SOURCE`):

- plain torch operations, tensor by tensor, or on flat buffers;
- `fused`: one compiled kernel, one pass over memory; unasked on CPUs from a million parameters on; on accelerators through torch.compile;
- `foreach`: on lists of tensors; unasked on CUDA;
- `capturable`, and under torch.compile: with the step count as a tensor.

The files, in order: `render`, `emit` (rule to text); `bessel`, `draws`, `reduce`, `flat`, `foreach`, `cpp`, `kernel`, `work`, `compiled`,
`contract`, `schedulers` (what the text builds upon; these need only torch and go into exported files); `build`; `tailor` (leaves out of
those what a rule does not need), `optax`, `export`.
"""

from optevolve.compile.build import build, class_of
from optevolve.compile.contract import RuleOptimizer
from optevolve.compile.export import export

__all__ = ["RuleOptimizer", "build", "class_of", "export"]
