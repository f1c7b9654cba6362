"""What came out of a run, in words: said the same way whoever won."""

from __future__ import annotations

from collections.abc import Sequence

from optevolve.config import RunConfig
from optevolve.number_text import duration, number
from optevolve.records import Measurement
from optevolve.reporting.tables import is_search, leaderboard, stage_costs

__all__ = ["opening"]


def opening(config: RunConfig, measurements: Sequence[Measurement], finished: bool) -> str:
    """The run in two or three sentences: what was searched, with what budget, and what the search itself found."""
    costs = stage_costs(measurements)
    search = [m for m in measurements if is_search(m)]
    what = f"This run searched for update rules that train {config.task} ({config.search.algorithm} search, seed {config.seed}). "
    if not costs:
        return what + f"Nothing has been measured{'' if finished else ' yet'}."
    total = costs[-1]
    refused = sum(len(p.rejected) for p in {m.proposal.id: m.proposal for m in search if m.proposal is not None}.values())
    own = sum(not m.same_as for m in search)
    what += f"It measured {own:,} candidates" + (f" and refused {refused:,} before any training" if refused else "")
    what += f"; all stages together took {total.steps:,} training steps and {duration(total.seconds)} of worker time. "
    best = next((row for row in leaderboard(search, 1) if row["fitness"] is not None), None)
    if best is None:
        what += f"No candidate has completed the surrogate training{'' if finished else ' yet'}. "
    else:
        what += f"The best fitness of the search on validation data was {number(best['fitness'])}. "
        leader = leaderboard(measurements, 1, config.search.over_tasks)[0]
        if leader["remeasured"] is not None:
            what += f"Measured again under fresh seeds, the leader has {number(leader['remeasured'])}. "
        if leader["choice"] is not None:
            what += f"It hands over {leader['name']}, chosen by its validation score of {number(leader['choice'])}. "
    if not finished:
        what += "The run is not finished: everything below is as far as it has come."
    return what.strip()
