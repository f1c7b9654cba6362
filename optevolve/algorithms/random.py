"""Random search at the particle search's budget: the yardstick that evolution must beat. Source: method section 5."""

from __future__ import annotations

from functools import partial

from optevolve.algorithms.base import Evolution, ready
from optevolve.algorithms.standing import Score
from optevolve.records import Proposal

__all__ = ["RandomSearch"]


class RandomSearch(Evolution):
    """After the initial population, of which the best are measured again as particles would be, every further proposal is a random rule."""

    def _found(self, best: list[Proposal]) -> None:
        for number, first in enumerate(best):
            again = Proposal(f"again/{number:04d}", first.rule, first.genome, "evolution", first.id, mutation="measured again")
            self.queue.append(partial(ready, again))
        for number in range(self.search.particles * self.search.timesteps * self.search.children):
            self.queue.append(partial(self.random_proposal, f"random/{number:05d}", (2, number), "evolution"))

    def _settle(self, proposal: Proposal, score: Score | None) -> None:
        """Nothing follows from a random rule's score."""
