"""The paper's search: independent particles that move by mutation only. Source: method section 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from optevolve.records import Proposal
from optevolve.search.base import Evolution

__all__ = ["ParticleSearch"]


@dataclass
class _Particle:
    number: int
    position: Proposal
    fitness: float | None = None
    timestep: int = 0
    seen: set[str] = field(default_factory=set)
    children: dict[int, tuple[Proposal, float | None]] = field(default_factory=dict)  # settled children of the timestep
    redraws: dict[int, int] = field(default_factory=dict)


class ParticleSearch(Evolution):
    """Each of the best initial rules becomes a particle. Per timestep a particle makes `children` mutated children, a child that fails is
    drawn again up to `redraws` times, and the best child becomes the particle's position: the parent dies of age even if better, unless
    `elitist`. A particle all of whose children fail stays where it is.
    """

    def _found(self, best: list[Proposal]) -> None:
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
        particle.redraws = dict.fromkeys(range(self.search.children), 0)
        for child in range(self.search.children):
            self.queue.append(self._child(particle, child))

    def _child(self, particle: _Particle, child: int) -> Callable[[], Proposal]:
        draw = particle.redraws[child]
        place = f"particle-{particle.number:02d}/t{particle.timestep}/c{child}" + (f"/r{draw}" if draw else "")
        key = (1, particle.number, particle.timestep, child, draw)
        parent, timestep = particle.position, particle.timestep
        return lambda: self.mutated_proposal(place, key, parent, timestep, particle.number, particle.seen)

    def _settle(self, proposal: Proposal, fitness: float | None) -> None:
        particle = self.particles[proposal.particle]
        if proposal.timestep == 0:
            if particle.timestep == 1:  # later, the position is a child's
                particle.fitness = fitness
            return
        child = int(proposal.id.split("/c")[1].split("/")[0])
        if fitness is None and particle.redraws[child] < self.search.redraws:
            particle.redraws[child] += 1
            self.queue.appendleft(self._child(particle, child))
            return
        particle.children[child] = (proposal, fitness)
        if len(particle.children) == self.search.children:
            self._move(particle)

    def _move(self, particle: _Particle) -> None:
        alive = [(fitness, -child, proposal) for child, (proposal, fitness) in particle.children.items() if fitness is not None]
        if alive:
            fitness, _, best = max(alive, key=lambda item: item[:2])
            if not (self.search.elitist and particle.fitness is not None and particle.fitness >= fitness):
                particle.position, particle.fitness = best, fitness
        self._next_timestep(particle)
