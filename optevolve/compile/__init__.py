"""Rule to torch: source text, the optimizer that runs it, and the same text as a file of its own.

`build(rule, params, lr, total_steps=…)` is all that a training loop needs. `lr` and `momentum` are read from the parameter groups at every
step. `fused=False` keeps to plain torch operations: nothing is ever compiled. The project's own loop asks for `flat=True`: from the first
step on the parameters and the rule's states are views of one buffer each.

A rule runs in one of these ways, all from one text (`class_of(rule).SOURCE`):

- plain torch operations on many small tensors at once and large ones piece by piece (`foreach`), one by one, or on flat buffers;
- one kernel for all rules that look at single elements; unasked on small models on the CPU after a few steps;
- `fused`: the rule's own kernel, one pass over memory; unasked on CPUs for other rules after a few steps, and from a million
  parameters on at once; on accelerators through torch.compile;
- `capturable`, and under torch.compile: with the step count as a tensor.

The files, in order: `render`, `emit` (rule to text); `bessel`, `draws`, `reduce`, `flat`, `packed`, `cpp`, `kernel`, `program`, `work`,
`checkpoint`, `compiled`, `contract`, `schedulers` (what the text builds upon; these need only torch; all but `flat` and `program` go into
exported files); `build`; `tailor` (leaves out of those what a rule does not need), `optax`, `self_test`, `export`.
"""

from optevolve.compile.build import build, class_of
from optevolve.compile.contract import RuleOptimizer
from optevolve.compile.export import export

__all__ = ["RuleOptimizer", "build", "class_of", "export"]
