"""Regularized evolution: tournaments in a population whose oldest member dies. Source: Real et al. 2019, arXiv 1802.01548, algorithm 1."""

from __future__ import annotations

from collections import deque
from functools import partial

from optevolve.algorithms.base import Evolution, ready
from optevolve.algorithms.standing import Score, merits
from optevolve.records import Proposal

__all__ = ["RegularizedEvolution"]


class RegularizedEvolution(Evolution):
    """The best initial rules, measured again, are the population. Each cycle draws `tournament` members, mutates the best of them and lets
    the child in if it completes; the oldest member then dies. As many cycles as the particle search makes children.
    """

    def _found(self, best: list[Proposal]) -> None:
        self.members: deque[tuple[Proposal, Score]] = deque()
        self.cycles = len(best) * self.search.timesteps * self.search.children
        self.cycle = 0
        self.founders = len(best)
        for number, first in enumerate(best):
            founder = Proposal(f"founder/{number:04d}", first.rule, first.genome, "evolution", first.id, mutation="becomes a founder")
            self.queue.append(partial(ready, founder))

    def ask(self) -> Proposal | None:
        """See `Algorithm.ask`: once the founders are told, cycles run side by side, each on the population as it stands."""
        started = len(self.population) == self.search.population and not self.founders
        if started and not self.queue and self.members and self.cycle < self.cycles:
            self.queue.append(partial(self._cycle, self.cycle))
            self.cycle += 1
        return super().ask()

    @property
    def done(self) -> bool:
        """See `Algorithm.done`."""
        found = len(self.population) == self.search.population
        return super().done and found and (self.cycle >= self.cycles or not self.members)

    def _cycle(self, number: int) -> Proposal:
        picks = self.rng((3, number, 0)).integers(len(self.members), size=self.search.tournament)
        drawn = [self.members[i] for i in dict.fromkeys(picks.tolist())]
        merit = merits([score for _, score in drawn], self.search.over_tasks)
        parent, _ = drawn[max(range(len(drawn)), key=merit.__getitem__)]
        return self.mutated_proposal(f"cycle/{number:05d}", (3, number, 1), parent, number + 1, -1, self.seen)

    def _settle(self, proposal: Proposal, score: Score | None) -> None:
        founder = proposal.id.startswith("founder")
        self.founders -= founder
        if score is not None:
            self.members.append((proposal, score))
            if not founder:
                self.members.popleft()
