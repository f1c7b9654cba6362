"""A regression whose sensor fails at times: a tenth of the batches hold NaN. '+finite:0.5' passes over them (at most half of a pass).

optevolve search --task broken_sensor.py:BrokenSensor+finite:0.5 --preset quick --out runs/broken-sensor
optevolve compare adamw nesterov lion --task broken_sensor.py:BrokenSensor+finite:0.5 --out runs/broken-sensor-known

Verdict of the search (seed 0, five paired seeds, minus the test loss): evolved-02, `nesterov: erf(sign(g))`, -0.166, does not beat
tuned AdamW, the best of the baselines, -0.141 (difference -0.026, 95 % interval -0.053 to 0.002, corrected p = 0.063).
The comparison, with longer runs: adamw -0.037, nesterov -0.066 (corrected p = 0.014), lion -0.327 (corrected p = 0.008).
"""

from dataclasses import dataclass

import torch
from torch import nn

import optevolve as oe


@dataclass(frozen=True)
class BrokenSensor(oe.Task):
    width: int = 32

    def model(self):
        return nn.Sequential(nn.Linear(4, self.width), nn.SiLU(), nn.Linear(self.width, self.width), nn.SiLU(), nn.Linear(self.width, 1))

    def batches(self, split, seed):
        generator = torch.Generator().manual_seed({"train": seed + 2, "valid": 0, "test": 1}[split])
        for _ in range(20):
            x = torch.rand(32, 4, generator=generator) * 4 - 2
            y = (x[:, :1] * x[:, 1:2]).sin() + x[:, 2:3].abs().sqrt() * x[:, 3:]
            if torch.rand((), generator=generator) < 0.1:
                x[torch.randint(32, (), generator=generator)] = torch.nan
            yield oe.Batch(x, y)

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch.x), batch.y)
