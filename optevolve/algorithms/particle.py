"""The paper's search: independent particles that move by mutation only. Source: method section 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from optevolve.algorithms.base import Evolution, ready
from optevolve.algorithms.standing import Score, merits
from optevolve.algorithms.ties import Scores, by_rank, leading, tied
from optevolve.records import Proposal

__all__ = ["ParticleSearch"]


@dataclass
class _Particle:
    number: int
    position: Proposal
    score: Score | None = None
    timestep: int = 0
    seen: set[str] = field(default_factory=set)
    children: dict[int, Proposal] = field(default_factory=dict)  # settled children of the timestep
    redraws: dict[int, int] = field(default_factory=dict)
    scores: dict[int, Scores] = field(default_factory=dict)  # of the children that completed
    awaited: set[int] = field(default_factory=set)  # children being measured under another seed
    round: int = 0  # seeds beyond the first so far


class ParticleSearch(Evolution):
    """Each of the best initial rules becomes a particle. Per timestep a particle makes `children` mutated children, a child that fails is
    drawn again up to `redraws` times, and the best child becomes the particle's position: the parent dies of age even if better, unless
    `elitist`. A particle all of whose children fail stays where it is.

    With `tie_seeds`, the children whose interval overlaps the best one's are measured under another seed, the same for all, until one is
    clearly best or the seeds are spent; then the best mean wins. A child that fails under another seed is out.

    Over several tasks, `over_tasks` says whether children compare by fitness or by their mean rank among the children.
    """

    _again: set[str]  # ids of proposals that are measured under another seed

    def _found(self, best: list[Proposal]) -> None:
        self._again = set()
        self.particles = [_Particle(number, proposal, seen={proposal.rule}) for number, proposal in enumerate(best)]
        for particle in self.particles:
            self.queue.append(self._start(particle))
        for particle in self.particles:
            self._next_timestep(particle)

    def _start(self, particle: _Particle) -> Callable[[], Proposal]:
        """The particle's own rule, measured as its children will be."""
        first = particle.position
        particle.position = Proposal(
            f"particle-{particle.number:02d}/t0", first.rule, first.genome, "evolution", first.id, particle.number, 0, "becomes a particle"
        )
        return lambda: particle.position

    def _next_timestep(self, particle: _Particle) -> None:
        if particle.timestep == self.search.timesteps:
            return
        particle.timestep += 1
        particle.children.clear()
        particle.scores.clear()
        particle.round = 0
        particle.redraws = dict.fromkeys(range(self.search.children), 0)
        for child in range(self.search.children):
            self.queue.append(self._child(particle, child))

    def _child(self, particle: _Particle, child: int) -> Callable[[], Proposal]:
        draw = particle.redraws[child]
        place = f"particle-{particle.number:02d}/t{particle.timestep}/c{child}" + (f"/r{draw}" if draw else "")
        key = (1, particle.number, particle.timestep, child, draw)
        parent, timestep = particle.position, particle.timestep
        return lambda: self.mutated_proposal(place, key, parent, timestep, particle.number, particle.seen)

    def _settle(self, proposal: Proposal, score: Score | None) -> None:
        particle = self.particles[proposal.particle]
        if proposal.timestep == 0:
            if particle.timestep == 1:  # later, the position is a child's
                particle.score = score
            return
        child = int(proposal.id.split("/c")[1].split("/")[0])
        if proposal.id in self._again:
            self._settle_again(particle, child, score)
            return
        if score is None and particle.redraws[child] < self.search.redraws:
            particle.redraws[child] += 1
            self.queue.appendleft(self._child(particle, child))
            return
        particle.children[child] = proposal
        if score is not None:
            particle.scores[child] = Scores.first(score)
        if len(particle.children) == self.search.children:
            self._move(particle)

    def _settle_again(self, particle: _Particle, child: int, score: Score | None) -> None:
        if score is None:
            del particle.scores[child]
        else:
            particle.scores[child].add(score)
        particle.awaited.remove(child)
        if not particle.awaited:
            self._move(particle)

    def _measure_again(self, particle: _Particle) -> bool:
        """Asks for another seed of the children that are as good as the best, as far as can be told; whether there are any."""
        if particle.round == self.search.tie_seeds:
            return False
        particle.awaited = tied(self._compared(particle))
        particle.round += bool(particle.awaited)
        for child in sorted(particle.awaited, reverse=True):
            first = particle.children[child]
            again = replace(first, id=f"{first.id}/seed-{particle.round}", mutation="another seed", rejected=())
            self._again.add(again.id)
            self.queue.appendleft(partial(ready, again))
        return bool(particle.awaited)

    def _compared(self, particle: _Particle) -> dict[int, Scores]:
        return by_rank(particle.scores) if self.search.over_tasks == "rank" else leading(particle.scores)

    def _move(self, particle: _Particle) -> None:
        if self._measure_again(particle):
            return
        alive = self._compared(particle)
        if alive:
            best = max(alive, key=lambda child: (alive[child].mean, -child))
            score = particle.scores[best].overall
            if not (self.search.elitist and self._keeps(particle.score, score)):
                particle.position, particle.score = particle.children[best], score
        self._next_timestep(particle)

    def _keeps(self, parent: Score | None, child: Score) -> bool:
        """Whether the parent is at least as good as the best child."""
        if parent is None:
            return False
        own, other = merits([parent, child], self.search.over_tasks)
        return own >= other
