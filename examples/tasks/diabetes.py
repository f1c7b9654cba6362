"""A regression, scored by its loss: how far diabetes has gone a year later, from ten measurements (442 patients, in scikit-learn).

optevolve search --task diabetes.py:Diabetes --preset quick --out runs/diabetes
optevolve compare adamw nesterov lion --task diabetes.py:Diabetes --out runs/diabetes-known

Verdict of the search (seed 0, five paired seeds, minus the test loss): evolved-01, `momentum: clip(erfc(a4) * qhm(v), …)`, -0.454, does
not beat the best of the baselines, nesterov, -0.457, nor tuned AdamW, -0.482 (difference 0.029, 95 % interval -0.002 to 0.059,
corrected p = 0.12).
The comparison, which tries more weight decays, finds no clear difference either: adamw -0.452, nesterov -0.459, lion -0.459.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import optevolve as oe


@dataclass(frozen=True)
class Diabetes(oe.Task):
    width: int = 32

    def model(self):
        return nn.Sequential(nn.Linear(10, self.width), nn.Tanh(), nn.Linear(self.width, self.width), nn.Tanh(), nn.Linear(self.width, 1))

    def batches(self, split, seed):
        x, y = load_diabetes(return_X_y=True)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        rows = {"train": order[:282], "valid": order[282:362], "test": order[362:]}[split]
        if split == "train":
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        x, y = torch.tensor(x).float() * len(x) ** 0.5, (torch.tensor(y).float()[:, None] - 152) / 77
        for some in rows.split(32):
            yield oe.Batch(x[some], y[some])

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch.x), batch.y)
