"""A language model: a GRU that reads Python's own source code character by character. The score is minus nats per character.

optevolve search --task source_code.py:SourceCode --preset quick --out runs/source-code
optevolve compare adamw nesterov lion --task source_code.py:SourceCode --out runs/source-code-known

Verdict of the search (seed 0, five paired seeds, minus nats per character on the test text): evolved-01, `nesterov: erf(g)`, -1.579,
does not beat the best of the baselines, nesterov, -1.591 (difference 0.012, 95 % interval -0.016 to 0.040, corrected p = 0.30); it
beats tuned AdamW, -1.702 (difference 0.124, 95 % interval 0.027 to 0.220, corrected p = 0.047).
The comparison, with longer runs: nesterov -1.363 and adamw -1.391 (no clear difference, corrected p = 0.09), lion -2.044 (corrected p =
0.0001).
"""

import argparse
import inspect
from dataclasses import dataclass

import torch
from torch import nn

import optevolve as oe


class Reader(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(128, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 128)

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0])


@dataclass(frozen=True)
class SourceCode(oe.Task):
    width: int = 32
    window: int = 32

    def model(self):
        return Reader(self.width)

    def batches(self, split, seed):
        text = torch.tensor(list(inspect.getsource(argparse).encode("ascii", "replace")))
        first, second = len(text) * 8 // 10, len(text) * 9 // 10
        text = {"train": text[:first], "valid": text[first:second], "test": text[second:]}[split]
        starts = torch.arange(0, len(text) - self.window - 1, self.window)
        if split == "train":
            starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(seed))]
        for some in starts.split(16):
            places = some[:, None] + torch.arange(self.window)
            yield oe.Batch(text[places], text[places + 1])

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())
