"""Searches as ask/tell: what to measure next, given what came of what was measured. No torch, no processes, no storage.

`ALGORITHMS` maps the names that a config may use to classes called as `(search, grammar, check, seed)`; `base.Algorithm` is the protocol.
"""

from optevolve.search.base import Algorithm, Evolution
from optevolve.search.particle import ParticleSearch
from optevolve.search.random import RandomSearch
from optevolve.search.regularized import RegularizedEvolution
from optevolve.search.sameness import Sameness

__all__ = ["ALGORITHMS", "Algorithm", "Evolution", "ParticleSearch", "RandomSearch", "RegularizedEvolution", "Sameness"]

ALGORITHMS: dict[str, type[Evolution]] = {
    "particle": ParticleSearch,
    "random": RandomSearch,
    "regularized": RegularizedEvolution,
}
