"""Train with the best optimizer of a run: needs torch and the file that the run exported, nothing of optevolve.

python examples/use_best_optimizer.py runs/demo
"""

import sys

import torch
from torch import nn

sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
from best_optimizer import BestOptimizer

STEPS = 400
torch.manual_seed(0)
angle = torch.rand(512) * 6
label = torch.arange(512) % 2
x = torch.stack([angle * torch.cos(angle + torch.pi * label), angle * torch.sin(angle + torch.pi * label)], dim=1) / 3  # two spirals
model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))


def accuracy() -> float:
    """Share of the points on the right spiral."""
    return (model(x).argmax(1) == label).float().mean().item()


before = accuracy()
best = before
for lr in (1.0, 0.1, 0.01, 1e-3):  # an optimizer found on one task needs its learning rate chosen on another
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimizer = BestOptimizer(model.parameters(), lr=lr, total_steps=STEPS)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=STEPS, cycle_momentum=False)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), label).backward()
        optimizer.step()
        scheduler.step()
    print(f"learning rate {lr:g}: accuracy {accuracy():.3f}")
    best = max(best, accuracy())
print(f"{type(optimizer).__name__}: accuracy {before:.3f} before training, {best:.3f} after, at the best of four learning rates")
assert not any(name.partition(".")[0] == "optevolve" for name in sys.modules), "the exported file stands alone"
