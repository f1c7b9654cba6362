"""Where files may be written, and how: whole or not at all."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from optevolve.errors import ExportError

__all__ = ["require_folder", "write_whole"]


def require_folder(path: Path) -> None:
    """Refuses a file in a folder that is not there: more often a slip of the pen than a wish for a new folder.

    Raises:
        ExportError: naming the folder.
    """
    folder = path.parent
    if not folder.is_dir():
        found = "a file" if folder.exists() else "none"
        raise ExportError(f"Expected an existing folder for {path}, found {found} at {folder}. Make it first, or choose another.")


def write_whole(path: Path, text: str) -> None:
    """Writes a text as UTF-8, so that a file that was there stays until the new one is complete, which then has its permissions.

    A link is followed: what it names is written. Lone surrogates, as a mangled file name may hold, become question marks.

    Raises:
        OSError: if it cannot be written, or there is something that is no file, such as a pipe or a device, which a new file would replace.
        ValueError: if it is no path of a file.
    """
    place = Path(os.path.realpath(path))
    if (path.exists() or place.is_symlink()) and not path.is_file():
        raise OSError(errno.EEXIST, "something is there that is no file, such as a folder, a pipe or a device")
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("wb") as file:
            if path.exists():
                shutil.copymode(place, draft)
            file.write(text.encode("utf-8", errors="replace"))
        draft.replace(place)
    finally:
        with suppress(OSError, ValueError):
            draft.unlink(missing_ok=True)
