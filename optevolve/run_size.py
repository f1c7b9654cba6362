"""How many measurements a run makes, stage by stage, if none fails; and how many it may be asked to make."""

from __future__ import annotations

from optevolve.config import RunConfig
from optevolve.contestants import REFERENCE_STAGE

__all__ = ["FINAL_EVALUATION", "most_of", "sizes"]

FINAL_EVALUATION = "final evaluation"  # tuning, choice and test are one stage for a person


def sizes(config: RunConfig) -> dict[str, int]:
    """Measurements by stage, in order: the reference, "initial", "evolution", "eliminate/1" and so on, and the final evaluation."""
    evaluation, rounds, search = config.evaluation, config.rounds, config.search
    found = {REFERENCE_STAGE: 1, "initial": search.population, "evolution": search.particles * (1 + search.timesteps * search.children)}
    entering = [min(config.contenders, found["initial"] + found["evolution"]), *(budget.keep for budget in rounds)]
    for number, (size, budget) in enumerate(zip(entering, rounds, strict=False), start=1):
        found[f"eliminate/{number}"] = size * budget.seeds
    finalists = (rounds[-1].keep if rounds else config.contenders) + len(evaluation.baselines)
    found[FINAL_EVALUATION] = finalists * max(1, len(evaluation.tasks)) * (1 + evaluation.choice_seeds + evaluation.seeds)
    return found


def most_of(stage: str) -> int:
    """The most measurements of a stage: the evolution asks for them as it goes, which a database numbers; others hold them all at once."""
    return 10**8 if stage == "evolution" else 10**6
