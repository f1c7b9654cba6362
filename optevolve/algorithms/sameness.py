"""Which rules count as one, so that no rule is measured twice under two spellings."""

from __future__ import annotations

from collections.abc import Mapping

from optevolve.space import UpdateRule, parse

__all__ = ["SENSES", "Sameness"]

#: What a config may ask for, from the strictest sense to the loosest.
SENSES = ("spelling", "behaviour", "nearly")


class Sameness:
    """Gives each rule a key; rules with one key count as one.

    "spelling": the same text. "behaviour": the same fingerprint, that is the same updates on fixed gradient streams up to rounding.
    "nearly": also rules that real training cannot tell apart, such as g and g + g ** 3 at real gradient scales; a rule then takes the key
    of the first rule seen that it is nearly the same as, so that keys depend on the order of asking, which the driver fixes.

    Args:
        sense: one of `SENSES`.
    """

    def __init__(self, sense: str = "behaviour") -> None:
        if sense not in SENSES:
            raise ValueError(f"Expected one of {', '.join(SENSES)}, got {sense!r}.")
        self.sense = sense
        self._keys: dict[str, str] = {}
        self._firsts: dict[str, UpdateRule] = {}

    def __call__(self, text: str) -> str:
        """The key of a rule in native notation.

        Raises:
            ParseError: if the text is no rule.
        """
        if self.sense == "spelling":
            return text
        if text not in self._keys:
            self._keys[text] = self._key(parse(text))
        return self._keys[text]

    def recall(self, keys: Mapping[str, str]) -> None:
        """Takes over keys given before, by rule, where a key is a function of its rule alone."""
        if self.sense == "behaviour":
            self._keys |= keys

    def _key(self, rule: UpdateRule) -> str:
        from optevolve.space.fingerprint import nearly_same

        key = rule.fingerprint()
        if self.sense == "behaviour" or key in self._firsts:
            return key
        for known, first in self._firsts.items():
            if nearly_same(first, rule):
                return known
        self._firsts[key] = rule
        return key
