"""Searches as ask/tell: what to measure next, given what came of what was measured. No torch, no processes, no storage.

`ALGORITHMS` maps the names that a config may use to classes called as `(search, grammar, check, seed)`; `base.Algorithm` is the protocol.
"""

from optevolve.algorithms.base import Algorithm, Evolution
from optevolve.algorithms.particle import ParticleSearch
from optevolve.algorithms.random import RandomSearch
from optevolve.algorithms.regularized import RegularizedEvolution
from optevolve.algorithms.sameness import Sameness

__all__ = ["ALGORITHMS", "Algorithm", "Evolution", "ParticleSearch", "RandomSearch", "RegularizedEvolution", "Sameness"]

ALGORITHMS: dict[str, type[Evolution]] = {
    "particle": ParticleSearch,
    "random": RandomSearch,
    "regularized": RegularizedEvolution,
}
