"""Looking after runs: whether one is sound, and a copy of one while it goes on."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from optevolve.errors import StudyError
from optevolve.run.folder import config_from, has_run, store_of
from optevolve.run.store.copying import copy_database
from optevolve.run.store.verify import Soundness, verify

__all__ = ["backup_run", "verify_run"]

# What a run's folder holds beside its study.
_FILES = ("config.toml", "log.jsonl", "report.html", "best_optimizer.py", "comparison.json", "comparison.png")


def verify_run(folder: str | Path, *, repair: bool = False) -> Soundness:
    """What is sound in a run, and what is not.

    Args:
        folder: of the run.
        repair: mend what can be mended, after a copy of the study was made beside it.
    Raises:
        StudyError: if there is no study, or one that cannot be looked at.
    """
    folder = Path(folder)
    store = store_of(folder)

    def save() -> Path | None:
        if "://" in store:
            return None  # on a server the repair is one transaction, and its own tools make copies
        copy = folder / f"study.db.before-repair-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        copy_database(store, copy)
        return copy

    return verify(store, repair=save if repair else None, check_config=lambda text: config_from(text, "its stored config"))


def backup_run(folder: str | Path, to: str | Path) -> Path:
    """Copies a run into a new folder, also while it goes on: what is measured by now. The copy is a run that can be looked at and resumed.

    Raises:
        StudyError: if there is no run, its study is on a server, or something is at `to` already.
    """
    folder, to = Path(folder), Path(to)
    if not has_run(folder):
        raise StudyError(f"Expected a run in {folder}, found none. Give the folder of a run.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StudyError(f"Expected a new or empty folder for the copy, found something at {to}. Name another.")
    try:
        copy_database(store_of(folder), to / "study.db")
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copy2(folder / name, to / name)
    except OSError as error:
        raise StudyError(f"Cannot copy the run in {folder} to {to}: {error.strerror}. Make room, or name another folder.") from error
    return to
