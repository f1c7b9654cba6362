"""Training: the one loop (`loop`), the same for many runs at once (`many`, `replicas`), and what makes a step cheaper (`engine`)."""

from optevolve.training.engine import Engine, device_of, precision_of
from optevolve.training.halves import Part
from optevolve.training.loop import OptimizerFactory, train
from optevolve.training.many import Replicas, train_many, why_alone
from optevolve.training.record import LOOK_STEPS, Floor, Score
from optevolve.training.replicas import train_together
from optevolve.training.runs import Run, Terms
from optevolve.training.scoring import evaluate, untrained_score
from optevolve.training.stack import UnstackableError

__all__ = [
    "LOOK_STEPS",
    "Engine",
    "Floor",
    "OptimizerFactory",
    "Part",
    "Replicas",
    "Run",
    "Score",
    "Terms",
    "UnstackableError",
    "device_of",
    "evaluate",
    "precision_of",
    "train",
    "train_many",
    "train_together",
    "untrained_score",
    "why_alone",
]
