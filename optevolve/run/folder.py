"""A run is a folder: `config.toml`, `study.db`, `report.html`, `best_optimizer.py`. Opening one makes sure that it holds this run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from optevolve.config import RunConfig
from optevolve.config_text import difference, from_toml, to_toml
from optevolve.errors import StudyError
from optevolve.run.store import Study

__all__ = ["config_of", "open_run", "read_run", "store_of", "write_text"]

SHOWN = 8  # differences listed before the rest is counted


def store_of(folder: Path) -> Path:
    """The database of a run."""
    return folder / "study.db"


def config_of(study: Study) -> RunConfig:
    """The config that a study was started with."""
    return from_toml(study.config_text, base=RunConfig(), source=f"the config stored in {study.where}")


@contextmanager
def open_run(folder: Path, config: RunConfig | None) -> Iterator[tuple[Study, RunConfig]]:
    """The run in a folder, held for writing, and its config.

    Args:
        folder: made if it does not exist.
        config: of the run; None to take the stored one. Where there is a stored one too, they must agree, but for the place of the data.
    Raises:
        StudyError: if the folder holds another run, holds none though no config is given, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"Expected a folder for the run, found a file at {folder}. Choose another --out.")
    if config is None and not store_of(folder).is_file():
        raise StudyError(f"Expected a run in {folder}, found no study.db there. Give the folder of a run, or start one: optevolve search.")
    if store_of(folder).is_file():
        with Study.open(store_of(folder)) as study:
            stored = config_of(study)
            if config is not None:
                _refuse_another(folder, stored, config)
                stored = replace(stored, data=config.data or stored.data)
            yield study, stored
        return
    assert config is not None
    text = to_toml(config)
    with Study.create(store_of(folder), text) as study:
        write_text(folder / "config.toml", text)
        yield study, config


@contextmanager
def read_run(folder: Path) -> Iterator[tuple[Study, RunConfig]]:
    """The run in a folder, to look at, also while it is running, and its config.

    Raises:
        StudyError: if there is none.
    """
    if not store_of(folder).is_file():
        raise StudyError(f"Expected a run in {folder}, found no study.db there. Give the folder of a run, or start one: optevolve search.")
    with Study.open(store_of(folder), read_only=True) as study:
        yield study, config_of(study)


def _refuse_another(folder: Path, stored: RunConfig, config: RunConfig) -> None:
    differences = [(key, old, new) for key, old, new in difference(stored, config) if key != "data"]
    if not differences:
        return
    shown = "; ".join(f"{key}: {old!r} there, {new!r} here" for key, old, new in differences[:SHOWN])
    more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    raise StudyError(
        f"The folder {folder} holds another run ({shown}{more}). "
        f"Choose another --out, or go on with the run that is there: optevolve resume {folder}"
    )


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        StudyError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StudyError(f"Cannot write {path}: {error.strerror}. Make room or choose another folder; what is stored is kept.") from error
