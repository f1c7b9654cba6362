"""Data of a driver on machines that have none: which files a process uses, and where the driver's lie when they are handed to this machine.

On a cluster without a common disk the driver may be alone in having the data. It says what it uses, `used`; a worker is offered that,
`offer`; and a data set that is not here is then taken from the offer, `placed`: written into the cache once per machine, where all workers
map the same file.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from optevolve.errors import DataError

__all__ = ["Files", "Offer", "keep", "locked", "note", "offer", "placed", "used"]


class Files(NamedTuple):
    """A data set as files.

    Attributes:
        folder: name of its folder in a cache; it says what the files hold, so that equal names mean equal files.
        files: by name, where they lie on this machine.
    """

    folder: str
    files: dict[str, Path]


class Offer(NamedTuple):
    """A data set that another machine hands over.

    Attributes:
        folder: as of `Files`.
        fetch: the files' bytes by name, uint8 arrays of shape (bytes,); called if they are not here yet.
    """

    folder: str
    fetch: Callable[[], Mapping[str, npt.NDArray[np.uint8]]]


_USED: dict[str, Files] = {}
_OFFERED: dict[str, Offer] = {}


def note(what: str, files: Files) -> None:
    """Notes that this process uses a data set; `what` names it alike on every machine."""
    _USED[what] = files


def used() -> dict[str, Files]:
    """What this process has used so far."""
    return dict(_USED)


def offer(offers: Mapping[str, Offer]) -> None:
    """What this process may take if it is not on this machine."""
    _OFFERED.update(offers)


def placed(what: str, cache: Path) -> Path | None:
    """The folder in the cache with an offered data set, fetched if it is not there yet; None if it was not offered.

    Raises:
        DataError: if the cache cannot be written.
    """
    found = _OFFERED.get(what)
    return None if found is None else keep(found, cache)


def keep(offered: Offer, cache: Path) -> Path:
    """The folder in the cache with that data set, fetched if it is not there yet.

    Raises:
        DataError: if the cache cannot be written.
    """
    target = cache / offered.folder
    if target.is_dir():
        return target
    with locked(target):
        if not target.is_dir():
            _write(target, offered.fetch())
    return target


def locked(target: Path) -> FileLock:
    """Lets one process of this machine at a time make a file or folder of the cache.

    Raises:
        DataError: if the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / f"{target.name}.lock").touch()
    except OSError as error:
        raise _unwritable(target, error) from error
    return FileLock(target.parent / f"{target.name}.lock")


def _write(target: Path, files: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    part = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        for name, content in files.items():
            content.tofile(part / name)
        part.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> DataError:
    return DataError(f"Data could not be written to {target}: {error}. Set OPTEVOLVE_CACHE to a folder with room.")
