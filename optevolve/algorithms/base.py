"""What every search shares: the ask/tell face, randomness by structure, the drawing of valid random rules."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np

from optevolve.algorithms.standing import Score, merits
from optevolve.config import Search
from optevolve.errors import ConfigError
from optevolve.records import Outcome, Proposal
from optevolve.space.genome import Genome
from optevolve.space.grammar import Grammar
from optevolve.space.mutate import mutate
from optevolve.space.rule import UpdateRule
from optevolve.space.sample import sample_genome

__all__ = ["Algorithm", "Check", "Evolution", "Judgement", "ready"]

MAX_DRAWS = 20_000
REDRAWN = 64
_NEGATIVE = re.compile(r"-\w+: ")


def ready(proposal: Proposal) -> Proposal:
    """A proposal that need not be drawn."""
    return proposal


def _unsigned(rule: str) -> str:
    """The text of a rule under its positive sign, which is the one that is checked and remembered."""
    return rule.removeprefix("-").removeprefix("plain: ") if _NEGATIVE.match(rule) else rule


class Judgement(Protocol):
    """What a check says of a rule: whether it may be measured, with which sign, and if not why."""

    @property
    def ok(self) -> bool:
        """Whether it may be measured."""

    @property
    def sign(self) -> int:
        """1 or -1."""

    @property
    def reason(self) -> str:
        """Why it may not; empty if it may."""


Check = Callable[[UpdateRule], Judgement]


class Algorithm(Protocol):
    """A search as ask and tell.

    Invariants: proposals have unique ids; every proposal that was asked for is told exactly once, in any order; given the same seed and the
    same order of asks and tells the proposals are the same; once `done`, `ask` returns None for ever.
    """

    def ask(self) -> Proposal | None:
        """The next proposal; None if there is none before more outcomes are told, or none at all."""

    def tell(self, proposal_id: str, outcome: Outcome) -> None:
        """What came of a proposal."""

    @property
    def done(self) -> bool:
        """Whether every proposal that the search will ever make has been told."""

    @property
    def budget(self) -> int:
        """Proposals that the search makes if none fails."""


class Evolution:
    """Base of searches: an initial population of random rules measured in the "initial" stage, of which the best found what follows.

    Subclasses say what follows: `_found(best)` is called once with the best of the population, `_settle` with every later outcome; both
    push to `queue` what is to be asked next, as functions that draw the proposal when its turn comes.
    """

    def __init__(self, search: Search, grammar: Grammar, check: Check, seed: int) -> None:
        self.search = search
        self.grammar = grammar
        self.check = check
        self.seed = seed
        self.queue: deque[Callable[[], Proposal]] = deque()
        self.open: dict[str, Proposal] = {}
        self.population: dict[str, tuple[Proposal, Score | None]] = {}
        self.seen: set[str] = set()
        self.known: dict[str, Proposal] = {}  # made before, not yet made again
        self.made_again = 0
        for number in range(search.population):
            self.queue.append(partial(self.random_proposal, f"initial/{number:04d}", (0, number), "initial"))

    def recall(self, proposals: Mapping[str, Proposal]) -> None:
        """Takes over proposals that the same search has made before, by id, so that they need not be drawn and checked again.

        One in `REDRAWN` is drawn all the same: where another version of this program draws otherwise, whoever compares the two sees it.
        """
        self.known = dict(proposals)

    def _recalled(self, proposal_id: str, stage: str, parent: str, seen: set[str]) -> Proposal | None:
        found = self.known.pop(proposal_id, None)
        if found is None or (found.stage, found.parent) != (stage, parent):
            return None
        self.made_again += 1
        if self.made_again <= REDRAWN or self.made_again % REDRAWN == 0:
            return None
        seen.add(_unsigned(found.rule))
        return found

    def ask(self) -> Proposal | None:
        """See `Algorithm.ask`."""
        if not self.queue:
            return None
        proposal = self.queue.popleft()()
        self.open[proposal.id] = proposal
        return proposal

    def tell(self, proposal_id: str, outcome: Outcome) -> None:
        """See `Algorithm.tell`.

        Raises:
            KeyError: if the proposal was never asked for, or was told before.
        """
        proposal = self.open.pop(proposal_id)
        score = Score.of(outcome)
        if proposal.stage != "initial":
            self._settle(proposal, score)
            return
        self.population[proposal_id] = (proposal, score)
        if len(self.population) == self.search.population:
            self._found(self._best_of_population())

    @property
    def done(self) -> bool:
        """See `Algorithm.done`."""
        return not self.queue and not self.open

    @property
    def budget(self) -> int:
        """See `Algorithm.budget`."""
        search = self.search
        return search.population + search.particles * (1 + search.timesteps * search.children)

    def _best_of_population(self) -> list[Proposal]:
        measured = [(proposal, score) for _, (proposal, score) in sorted(self.population.items()) if score is not None]
        merit = merits([score for _, score in measured], self.search.over_tasks)
        best = sorted(range(len(measured)), key=lambda place: -merit[place])
        return [measured[place][0] for place in best[: self.search.particles]]

    def _found(self, best: list[Proposal]) -> None:
        raise NotImplementedError

    def _settle(self, proposal: Proposal, score: Score | None) -> None:
        raise NotImplementedError

    def rng(self, key: tuple[int, ...]) -> np.random.Generator:
        """Random numbers that depend on the seed and a place in the search's structure, never on time."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def random_proposal(self, proposal_id: str, key: tuple[int, ...], stage: str) -> Proposal:
        """A random rule that passes the check and was not drawn before.

        Raises:
            ConfigError: if `MAX_DRAWS` rules in a row fail.
        """
        if (known := self._recalled(proposal_id, stage, "", self.seen)) is not None:
            return known
        rng = self.rng(key)
        rejected: list[tuple[str, str]] = []
        for _ in range(MAX_DRAWS):
            genome = sample_genome(rng, self.grammar)
            sign = self._sign(genome.rule, self.seen, rejected)
            if sign:
                genome = Genome(genome.slots, genome.kind, sign)
                return Proposal(proposal_id, str(genome.rule), genome.to_json(), stage, rejected=tuple(rejected))
        raise ConfigError(
            f"Expected a rule that passes the integrity check among {MAX_DRAWS} drawn from grammar {self.grammar.name!r}, got none. "
            "Give the grammar operands and operators that can follow the gradient."
        )

    def mutated_proposal(
        self, proposal_id: str, key: tuple[int, ...], parent: Proposal, timestep: int, particle: int, seen: set[str]
    ) -> Proposal:
        """A child of the parent that passes the check and is not among `seen`, which it joins."""
        if (known := self._recalled(proposal_id, "evolution", parent.id, seen)) is not None:
            return known
        rejected: list[tuple[str, str]] = []
        genome, change = mutate(Genome.from_json(parent.genome), self.rng(key), self.grammar, lambda rule: self._sign(rule, seen, rejected))
        return Proposal(
            proposal_id, str(genome.rule), genome.to_json(), "evolution", parent.id, particle, timestep, change, tuple(rejected)
        )

    def _sign(self, rule: UpdateRule, seen: set[str], rejected: list[tuple[str, str]]) -> int:
        """The sign with which the rule passes, 0 if it does not or was seen; what fails the check is noted in `rejected`."""
        text = str(rule)
        if text in seen:
            return 0
        judgement = self.check(rule)
        if not judgement.ok:
            rejected.append((text, judgement.reason))
            return 0
        seen.add(text)
        return judgement.sign
