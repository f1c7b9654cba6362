"""What a user can get wrong. The command line prints these without a traceback and exits with code 2.

Every message says what was expected, what was found and what to do. Programming errors are not here: they raise as they are.
"""

__all__ = ["ConfigError", "DataError", "ExportError", "OptevolveError", "ParseError", "RunEndedError", "StudyError", "TaskError"]


class OptevolveError(Exception):
    """Base of every error that a user can cause and mend."""


class ParseError(OptevolveError):
    """Text that is no rule or decay.

    Attributes:
        column: 1-based column of the offending character.
    """

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.column = column


class ConfigError(OptevolveError):
    """A config value or file that is unknown, malformed or out of range."""


class TaskError(OptevolveError):
    """A task that is unknown, or that breaks the task protocol."""


class DataError(OptevolveError):
    """Data that is missing, unreadable or not in the expected layout."""


class StudyError(OptevolveError):
    """A run folder or store that cannot be opened, written or resumed."""


class RunEndedError(StudyError):
    """A run that ended before its end, because nothing could come of it any more: all candidates of a stage, or all baselines, failed."""


class ExportError(OptevolveError):
    """A rule that cannot be written in the wanted format."""
