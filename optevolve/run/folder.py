"""A run is a folder: `config.toml`, `study.db`, `log.jsonl`, `report.html`, `best_optimizer.py`. Opening one makes sure it holds this run.

A run whose study is on a server has `store.url` in place of `study.db`: one line, without a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from optevolve.config import RunConfig
from optevolve.config_text import apply_settings, difference, from_toml, to_toml
from optevolve.errors import ConfigError, StudyError
from optevolve.files import write_whole
from optevolve.printable import without_passwords
from optevolve.run.older import text_as_now
from optevolve.run.store import Study, exists, named

__all__ = ["FREE", "config_from", "config_of", "has_run", "open_run", "read_run", "store_of", "write_text"]

SHOWN = 8  # differences listed before the rest is counted
FREE = ("workers.", "compute.")  # keys that are no part of a run: it goes on with others
_FINAL = ("tune", "choose", "evaluate")
# What may change in a run, and which stages must not have begun for that; () : none, since each task and baseline is measured by itself.
CHANGEABLE: dict[str, tuple[str, ...]] = {
    "evaluation.tasks": (),
    "evaluation.baselines": (),
    "evaluation": _FINAL,
    "elimination": ("eliminate/", *_FINAL),
    "contenders": ("eliminate/", *_FINAL),
    "search.remeasure": ("eliminate/", *_FINAL),
    "evolution": ("evolution", "eliminate/", *_FINAL),
}
# What may grow, and why the smaller run is then a part of the larger one: ids, rules and seeds follow from places that growth leaves alone.
EXTENDABLE = {
    "search.timesteps": "timesteps are added at each particle's end",
    "search.particles": "particles are the best of the same population, in order",
    "evaluation.seeds": "seeds are counted from 0",
}


def store_of(folder: Path, store: str = "") -> str:
    """Where a run's study is, as path or URL.

    Args:
        folder: of the run.
        store: URL given by the user; empty to look into the folder. A study that it does not name is called after the folder.
    Raises:
        StudyError: if the folder's study is elsewhere, or where it is cannot be read.
    """
    noted = _noted(folder / "store.url")
    if not store:
        return noted or str(folder / "study.db")
    given, public = named(store, folder.resolve().name)
    if (noted or (folder / "study.db").is_file()) and public != noted:
        kept = without_passwords(noted) or folder / "study.db"
        raise StudyError(f"The run in {folder} has its study in {kept}, not in {public}. Leave --store out, or use another --out.")
    return given


def _noted(note: Path) -> str:
    """The store that a folder names; empty if it names none."""
    if not note.is_file():
        return ""
    try:
        return note.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise StudyError(
            f"Expected the URL of the run's study in {note}, found what is no text. Write the URL there, as one line, or remove the file."
        ) from error


def has_run(place: Path | str, store: str = "") -> bool:
    """Whether there is a run already, in a folder or under the URL of a study."""
    return exists(place if isinstance(place, str) and "://" in place else store_of(Path(place), store))


def config_of(study: Study) -> RunConfig:
    """The config that a study was started with, or was extended to; what only older versions took is read as what it did."""
    return config_from(study.config_text, f"the config stored in {study.where}")


def config_from(text: str, source: str) -> RunConfig:
    """As `config_of`, from its text; `source` names that in messages.

    Raises:
        ConfigError: if it is no config.
    """
    try:
        return from_toml(text, base=RunConfig(), source=source)
    except ConfigError:
        with suppress(ValueError):
            text = text_as_now(text, source)
        return from_toml(text, base=RunConfig(), source=source)


@contextmanager
def open_run(
    folder: Path,
    config: RunConfig | None,
    *,
    store: str = "",
    extend: Sequence[str] = (),
    settings: Sequence[str] = (),
    check: Callable[[RunConfig], object] = lambda _: None,
) -> Iterator[tuple[Study, RunConfig]]:
    """The run in a folder, held for writing, and its config.

    Args:
        folder: made if it does not exist.
        config: of the run; None to take the stored one. Where something is measured under a stored one, they must agree, but for the
            place of the data and the workers and what they compute with, which are taken from `config`.
        store: URL of the database; empty for `study.db` in the folder, or the one that the folder names.
        extend: with the stored config, values that it is to grow to, such as "search.timesteps=9"; see `EXTENDABLE`.
        settings: with the stored config, values of `workers` and `compute` for this time, and, to stay, values of what nothing was
            measured by yet; see `CHANGEABLE`.
        check: raises an OptevolveError for another config that cannot be run, before it takes the place of the stored one.
    Raises:
        StudyError: if the folder holds another run, holds none though no config is given, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"Expected a folder for the run, found a file at {folder}. Choose another --out.")
    place = store_of(folder, store)
    if exists(place):
        with Study.open(place) as study:
            begun = bool(study.jobs())
            if config is not None and not begun:
                check(config)
                study.restart(to_toml(config))
            stored = config_of(study)
            if config is not None:
                _refuse_another(folder, stored, config)
                stored = replace(stored, data=config.data or stored.data, compute=config.compute, workers=config.workers)
            stored = _changed(study, stored, extend, settings, check)
            _note(folder, store, study, anew=not begun)
            yield study, stored
        return
    if config is None:
        raise _no_run(folder, place)
    text = to_toml(config)
    with Study.create(place, text) as study:
        _note(folder, store, study)
        yield study, config


@contextmanager
def read_run(place: Path | str) -> Iterator[tuple[Study, RunConfig]]:
    """A run to look at, also while it is running, and its config.

    Args:
        place: its folder, or the URL of its study.
    Raises:
        StudyError: if there is none.
    """
    is_url = isinstance(place, str) and "://" in place
    store = str(place) if is_url else store_of(Path(place))
    if not is_url and not exists(store):
        raise _no_run(Path(place), store)
    with Study.open(store, read_only=True) as study:
        yield study, config_of(study)


def _no_run(folder: Path, store: str) -> StudyError:
    missing = "no study.db" if "://" not in store else f"no study {named(store, '')[1]}"
    return StudyError(f"Expected a run in {folder}, found {missing} there. Give the folder of a run, or start one: optevolve search.")


def _note(folder: Path, store: str, study: Study, anew: bool = False) -> None:
    """Writes down the config and, if it is not in the folder, where the study is."""
    if store:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "store.url", named(store, folder.resolve().name)[1] + "\n")
    if not (folder / "config.toml").is_file() or study.extended or anew:
        write_text(folder / "config.toml", study.config_text)


def _changed(
    study: Study, stored: RunConfig, extend: Sequence[str], settings: Sequence[str], check: Callable[[RunConfig], object]
) -> RunConfig:
    """The config, extended and with settings: those of workers for now, all else to stay, stored once the whole is checked.

    Raises:
        StudyError: if something would not grow, or cannot, or something was measured by what the settings would change.
        OptevolveError: what `check` raises; what is stored stays as it was.
    """
    larger = apply_settings(stored, extend)
    _require_growth(stored, larger)
    wanted = apply_settings(larger, settings)
    _require_changeable(study, larger, wanted)
    kept = replace(wanted, workers=stored.workers, compute=stored.compute)
    if changes := difference(stored, kept):
        check(wanted)
        study.extend(to_toml(kept), **{key: f"{old} to {new}"[:500] for key, old, new in changes})
    return wanted


def _require_changeable(study: Study, stored: RunConfig, wanted: RunConfig) -> None:
    changes = [change for change in difference(stored, wanted) if not change[0].startswith(FREE)]
    begun = study.stages() if changes else set()
    for key, old, new in changes:
        stages = next((stages for start, stages in CHANGEABLE.items() if key == start or key.startswith(start + ".")), None)
        if stages is None or any(stage.startswith(stages) for stage in begun if stages):
            raise StudyError(
                f"Expected settings of workers, compute, or of what nothing was measured by yet, got {key}: {old!r} to {new!r}. "
                "A run keeps what it has measured; see --extend, or start a new run."
            )


def _require_growth(stored: RunConfig, larger: RunConfig) -> None:
    for key, old, new in difference(stored, larger):
        if not _may_grow(stored, key, old, new):
            can = ", ".join(key for key in EXTENDABLE if key != "search.particles" or stored.search.algorithm != "regularized")
            raise StudyError(f"Expected to extend a run by larger {can}, got {key}: {old!r} to {new!r}. For anything else start a new run.")


def _may_grow(stored: RunConfig, key: str, old: Any, new: Any) -> bool:
    # Regularized evolution draws from one population, which other founders change from the beginning.
    known = key in EXTENDABLE and (key != "search.particles" or stored.search.algorithm != "regularized")
    return known and isinstance(old, int) and isinstance(new, int) and new > old


def _refuse_another(folder: Path, stored: RunConfig, config: RunConfig) -> None:
    differences = [(key, old, new) for key, old, new in difference(stored, config) if key != "data" and not key.startswith(FREE)]
    if not differences:
        return
    shown = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, old, new in differences[:SHOWN])
    more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    remedy = f"Choose another --out, or go on with the run that is there: optevolve resume {folder}"
    if all(_may_grow(stored, *each) for each in differences):
        remedy += "; to this size: " + " ".join(["optevolve resume", str(folder), *(f"--extend {k}={new}" for k, _, new in differences)])
    raise StudyError(f"The folder {folder} holds another run ({shown}{more}). {remedy}")


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        StudyError: if it cannot be written.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise StudyError(f"Cannot write {path}: {error.strerror}. Make room or choose another folder; what is stored is kept.") from error
