import pytest

from optevolve.algorithms import Sameness
from optevolve.errors import ParseError


def test_spelling_tells_apart_what_is_written_differently() -> None:
    same = Sameness("spelling")
    assert same("g + v_hat") != same("v_hat + g")


def test_behaviour_meets_other_spellings_of_one_rule() -> None:
    same = Sameness()
    assert same("g + v_hat") == same("v_hat + g")
    assert same("min(g, g)") == same("g")
    assert same("nesterov: g") != same("momentum: g") != same("g")
    assert same("g + g ** 3") != same("g")


def test_nearly_meets_what_training_cannot_tell_apart_and_keys_by_the_first_seen() -> None:
    same = Sameness("nearly")
    first = same("nesterov: g")
    assert same("nesterov: g + g ** 3") == first
    assert same("nesterov: tanh(g)") == first
    assert same("nesterov: sign(g)") != first
    assert same("g") != first


def test_unknown_sense_and_no_rule() -> None:
    with pytest.raises(ValueError, match="spelling, behaviour, nearly"):
        Sameness("odd")
    with pytest.raises(ParseError):
        Sameness()("no rule at all")


def test_keys_are_recalled_where_they_are_a_function_of_the_rule_alone() -> None:
    for sense, expected in (("spelling", "g"), ("behaviour", "recalled"), ("nearly", None)):
        same = Sameness(sense)
        same.recall({"g": "recalled"})
        assert same("g") == (expected or Sameness(sense)("g"))
    assert Sameness("nearly")("g") != "recalled"
