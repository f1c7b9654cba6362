"""Where files may be written."""

from pathlib import Path

from optevolve.errors import ExportError

__all__ = ["require_folder"]


def require_folder(path: Path) -> None:
    """Refuses a file in a folder that is not there: more often a slip of the pen than a wish for a new folder.

    Raises:
        ExportError: naming the folder.
    """
    folder = path.parent
    if not folder.is_dir():
        found = "a file" if folder.exists() else "none"
        raise ExportError(f"Expected an existing folder for {path}, found {found} at {folder}. Make it first, or choose another.")
