"""Training: the one loop (`loop`), and what makes a step of it cheaper (`engine`, `norm_swish`)."""

from optevolve.training.engine import Engine, precision_of
from optevolve.training.halves import Part
from optevolve.training.loop import LOOK_STEPS, OptimizerFactory, evaluate, train, untrained_score

__all__ = ["LOOK_STEPS", "Engine", "OptimizerFactory", "Part", "evaluate", "precision_of", "train", "untrained_score"]
