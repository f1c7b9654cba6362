"""A task of one's own: `optevolve search --task my_tasks:Moons --preset quick --out runs/moons`, in the folder of this file."""

from dataclasses import dataclass

import torch
from sklearn.datasets import make_moons
from torch import nn

import optevolve as oe


@dataclass(frozen=True)
class Moons(oe.Task):
    width: int = 32

    def model(self):
        return nn.Sequential(nn.Linear(2, self.width), nn.SiLU(), nn.Linear(self.width, 2))

    def batches(self, split, seed):
        x, y = make_moons(512, noise=0.2, random_state={"train": seed + 2, "valid": 0, "test": 1}[split])
        for points, labels in zip(torch.tensor(x).float().split(64), torch.tensor(y).split(64), strict=True):
            yield oe.Batch(points, labels)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.x), batch.y)

    def score(self, model, batch):
        return (model(batch.x).argmax(-1) == batch.y).float().mean()
