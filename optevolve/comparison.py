"""Rules compared on tasks: tuned alike, trained under paired seeds, judged on test data at the end of training.

What `optevolve.evaluation` does with the survivors of a search, for any rules: see there for how they are tuned and tested. Everything is
kept in the folder's study, so that a comparison goes on where it stopped, and grows by rules, tasks and seeds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from optevolve import surrogate
from optevolve.config import FAST, REPEATS, Evaluation, Protocol, RunConfig
from optevolve.config_text import apply_settings, difference, on_device, to_toml
from optevolve.contestants import TUNE, Contestant, place_of
from optevolve.errors import ConfigError, StudyError
from optevolve.evaluation import EvaluationSource
from optevolve.final import REFERENCE, Comparison
from optevolve.final import compare as table_of
from optevolve.floors import has_floors
from optevolve.library import ZOO, AnyRule, entry_of, rule_of
from optevolve.listening import Listening
from optevolve.progress import Listener, listener
from optevolve.reporting.contest import write_plot
from optevolve.run.definitions import definitions_of
from optevolve.run.early_end import Hopeful
from optevolve.run.folder import FREE, config_of, write_text
from optevolve.run.session import require_device, require_number, session
from optevolve.run.store import Study
from optevolve.run.trial import check_tasks
from optevolve.space import parse
from optevolve.tasks import AnyTask, listed, spec_for, spec_of

__all__ = ["PROTOCOLS", "WEIGHT_DECAYS", "compare", "name_of"]

WEIGHT_DECAYS = (0.0, 1e-3, 1e-2, 1e-1)
# On whole batches and images, at the best rate itself: what is compared here at the end is the task as it is.
_FAST = replace(
    FAST, trial_steps=40, full_steps=440, epoch_steps=440, full_seeds=2, batch_share=1.0, resolution_share=1.0, trial_judge="end",
    rate_slack=0.0, weight_decays=WEIGHT_DECAYS,
)  # fmt: skip
PROTOCOLS = {"paper": Protocol(judge="last", weight_decays=WEIGHT_DECAYS), "fast": _FAST}
_LOOKAHEAD = 32


def compare(
    rules: Sequence[AnyRule] | Mapping[str, AnyRule],
    tasks: Sequence[AnyTask] | AnyTask,
    out: str | Path,
    *,
    protocol: str = "fast",
    settings: Sequence[str] = (),
    against: str = "",
    seeds: int = 5,
    seed: int = 0,
    data: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    progress: Listener | bool | None = None,
) -> list[Comparison]:
    """Compares rules on tasks and writes study.db, comparison.json and comparison.png into a folder; goes on where it stopped.

    The same folder takes further rules, tasks and seeds later; its protocol and seed stay.

    Args:
        rules: names of the zoo, texts in the native or the paper's notation, or rules; a mapping gives them names of its own. Where the
            protocol tunes no weight decay, each takes the one that goes with it, as AdamW's 0.01.
        tasks: one or several, each a name, a class or an instance as `task` of `optevolve.search`.
        out: the folder.
        protocol: "paper" or "fast", both judged at the end of training, with the weight decays 0, 0.001, 0.01 and 0.1.
        settings: changes to it, "full_steps=2000", "weight_decays=[0.0]".
        against: name of the rule that the others are tested against; one of the zoo is added to `rules` if it is not there; empty for
            AdamW if it is among them, else the first.
        seeds: paired runs per rule and task, from 1 to 10,000; from 2 on there are intervals and p-values.
        seed: of everything random.
        data: folder of data sets.
        workers: processes; None for one per core.
        device: where to train: "auto", "cpu", "cuda" or "mps"; None for "cpu". A folder may be gone on with on another.
        progress: as for `optevolve.search`.
    Returns:
        All that the folder holds so far, each task's rules best first.
    Raises:
        OptevolveError: for anything that the caller can mend.
    """
    if protocol not in PROTOCOLS or not 1 <= seeds <= REPEATS:
        raise ConfigError(f"Expected protocol paper or fast, and 1 to {REPEATS:,} seeds, got {protocol!r} and {seeds}.")
    specs = [spec_of(spec_for(task)) for task in listed(tasks)]
    if not specs:
        raise ConfigError("Expected at least one task, got none. See 'optevolve tasks'.")
    contestants, reference = _contestants(rules, against)
    config = RunConfig(seed=seed, evaluation=Evaluation(baselines=(), protocol=PROTOCOLS[protocol]))
    config = on_device(apply_settings(config, [f"evaluation.protocol.{setting}" for setting in settings]), device)
    require_device(config)
    require_number(workers)
    if data is not None:
        os.environ["OPTEVOLVE_DATA"] = str(Path(data).resolve())
    check_tasks(specs)
    definitions_of(specs)
    told = listener(progress)
    folder = Path(out)
    place = folder / "study.db"
    source = EvaluationSource(contestants, specs, config.evaluation.protocol, seeds=seeds, seed=seed)
    tunings = source.tunings([contestant.name for contestant in contestants])
    total = len(contestants) * len(set(specs)) * (1 + seeds)
    listeners = [] if told is None else [Listening(told, lambda _: "comparison", lambda _: total)]
    with Study.open(place) if place.exists() else Study.create(place, to_toml(config)) as study:
        if not study.jobs():
            study.restart(to_toml(config))
        _refuse_another(folder, config_of(study), config)
        try:
            with session(
                study, partial(surrogate.measure, compute=config.compute), config.workers, workers, folder, tasks=specs, listeners=listeners
            ) as work:
                work(
                    Hopeful(source, lambda _, job: "contestants" if job.id in tunings else "", lambda _: len(tunings), has_floors),
                    _LOOKAHEAD,
                )
            study.finish()
        finally:
            if told is not None:
                told.on_end()
            found = _write(folder, study, config, reference)
    return found


def name_of(rule: AnyRule) -> str:
    """The name under which a rule without one is compared: the zoo's, else one made from its native notation and its weight decay."""
    if (entry := entry_of(rule)) is not None:
        return entry.name
    found = rule_of(rule)
    text = str(found) + (f" weight_decay={found.weight_decay!r}" if found.weight_decay else "")
    return "rule-" + hashlib.sha256(text.encode()).hexdigest()[:6]


def _contestants(rules: Sequence[AnyRule] | Mapping[str, AnyRule], against: str) -> tuple[list[Contestant], str]:
    """Who is compared, each once, and the name of the reference."""
    if isinstance(rules, str):
        raise ConfigError(f"Expected a list of rules, got the text {rules!r}. Write [{rules!r}].")
    given = rules if isinstance(rules, Mapping) else {name_of(rule): rule for rule in rules}
    if not given:
        raise ConfigError("Expected at least one rule, got none. See 'optevolve zoo'.")
    named = {name: rule_of(rule) for name, rule in given.items()}
    if wrong := [name for name in named if not name or "/" in name]:
        raise ConfigError(f"Expected names without '/' and not empty, got {wrong[0]!r}.")
    reference = against or (REFERENCE if REFERENCE in named else next(iter(named)))
    if reference not in named:
        if reference not in ZOO:
            raise ConfigError(f"Expected one of {', '.join(named)} or a name of 'optevolve zoo' to compare against, got {against!r}.")
        named[reference] = ZOO[reference].rule
    # As text and back, so that a rule reads in the store as it reads anywhere.
    return [Contestant(name, str(parse(str(rule))), rule.weight_decay) for name, rule in named.items()], reference


def _refuse_another(folder: Path, stored: RunConfig, config: RunConfig) -> None:
    if changes := [change for change in difference(stored, config) if not change[0].startswith(FREE)]:
        key, old, new = changes[0]
        raise StudyError(
            f"The folder {folder} holds another run ({key}: {old!r} there, {new!r} here). Choose another --out; "
            "rules, tasks and seeds may be added to a comparison, its protocol and seed stay."
        )


def _write(folder: Path, study: Study, config: RunConfig, reference: str) -> list[Comparison]:
    """Results as they stand: also of a comparison that was interrupted."""
    measurements = study.measurements()
    found = table_of(measurements, reference)
    content = {
        "against": reference,
        "corrected": "p_corrected is p_value corrected for the tests of its task by Holm's procedure; it is the one to judge by",
        "seed": config.seed,
        "protocol": asdict(config.evaluation.protocol),
        "comparisons": [asdict(row) for row in found],
        "steps": sum(m.outcome.steps for m in measurements),
        "seconds": sum(m.outcome.seconds for m in measurements),
        "devices": sorted({m.outcome.device for m in measurements} - {""}),
    }
    write_text(folder / "comparison.json", json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")
    curves = {
        (m.job.task, place_of(m).name): [curve for curve in m.outcome.curves if curve.purpose == "full" and curve.steps]
        for m in measurements
        if m.stage == TUNE
    }
    write_plot(folder / "comparison.png", found, curves, reference)
    return found


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
