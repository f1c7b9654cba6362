"""Grammars: those that come along, one's own from a table, and what is refused; rules drawn from each parse, run and pass the check."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optevolve.algorithms import ALGORITHMS
from optevolve.config import Search
from optevolve.errors import ConfigError
from optevolve.integrity import check_integrity
from optevolve.records import Outcome, Status
from optevolve.space import UpdateRule, parse
from optevolve.space.genome import HIDDEN, DecayGenome, Genome
from optevolve.space.grammar import GRAMMARS, Grammar, arity_of, from_table, from_toml, grammar, paper_grammar, template
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.mutate import mutate
from optevolve.space.operators import LEAVES
from optevolve.space.sample import sample_genome
from optevolve.space.simplify import simplify

OWN = """
name = "own"
operands = ["g", "ema(g, 0.99)", "1e-2 * w", "sign(g)"]
unary = ["identity(x)", "tanh(x)", "0.5 * x"]
binary = ["x + y", "x * y / (1 + abs(y))"]
base_decays = ["a1", "a3", "1 - a1 * a3"]
decay_unary = ["identity(x)", "x ** 2"]
decay_binary = ["x * y"]
kinds = ["plain", "momentum"]
p_operand = 0.6
"""
SMALLEST: dict[str, Any] = {"name": "smallest", "operands": ["g", "w", "1"], "unary": ["tanh(x)"], "binary": ["x + y"], "base_decays": []}
ALL = [*GRAMMARS, "own", "smallest"]


def load(name: str) -> Grammar:
    return from_toml(OWN) if name == "own" else from_table(SMALLEST) if name == "smallest" else grammar(name)


def always(rule: UpdateRule) -> int:
    return rule.sign


def genomes(chosen: Grammar, count: int, seed: int = 0) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [sample_genome(rng, chosen) for _ in range(count)]


def walk(chosen: Grammar, steps: int, seed: int = 0) -> Iterator[Genome]:
    """A line of mutations."""
    rng = np.random.default_rng(seed)
    genome = sample_genome(rng, chosen)
    for _ in range(steps):
        genome, change = mutate(genome, rng, chosen, always)
        assert change
        yield genome


def templates_of(genome: Genome) -> set[str]:
    """Templates in the active part of a genome, those of decays included."""
    assert genome.active is not None
    slots = [genome.slots[number] for number in genome.active]
    found = {text for slot in slots for text in (slot.operator, *slot.inputs) if isinstance(text, str)}
    decays: list[DecayGenome] = [decay for slot in slots for decay in slot.decays if decay is not None]
    nodes = [*(decay.root for decay in decays), *(decay.hidden for decay in decays if decay.uses_hidden)]
    return found | {text for node in nodes for text in (node.operator, *node.inputs)} - {HIDDEN}


def every_template(chosen: Grammar) -> set[str]:
    found = {*chosen.operands, *chosen.unary, *chosen.binary}
    return found | {*chosen.base_decays, *chosen.decay_unary, *chosen.decay_binary} if chosen.base_decays else found


@pytest.mark.parametrize("name", ALL)
def test_rules_drawn_parse_print_and_run(name: str) -> None:
    chosen = load(name)
    w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    for genome in [*genomes(chosen, 40), *walk(chosen, 40)]:
        rule = genome.rule
        assert parse(str(rule)) == rule
        assert rule.kind in chosen.kinds
        assert Genome.from_json(genome.to_json()) == genome
        optimizer = ReferenceOptimizer(rule, w.shape, 3)
        moved = w
        with np.errstate(all="ignore"):
            for _ in range(3):
                moved = optimizer.step(moved, 2 * moved, 0.01, 0.9)
        assert moved.shape == w.shape


@pytest.mark.parametrize("name", ALL)
def test_some_of_what_is_drawn_descends(name: str) -> None:
    chosen = load(name)
    passing = [genome for genome in genomes(chosen, 60, seed=1) if check_integrity(genome.rule).ok]
    assert passing
    rng = np.random.default_rng(2)
    child, _ = mutate(passing[0], rng, chosen, lambda rule: verdict.sign if (verdict := check_integrity(rule)).ok else 0)
    assert check_integrity(child.rule).ok


@pytest.mark.parametrize("name", ["bello2017", "extended", "own"])
def test_sampling_reaches_every_template(name: str) -> None:
    chosen = load(name)
    found = set().union(*map(templates_of, genomes(chosen, 1500)))
    assert found == every_template(chosen)


@pytest.mark.parametrize("name", ["bello2017", "extended", "own"])
def test_mutation_reaches_every_template_from_one_genome(name: str) -> None:
    chosen = load(name)
    missing = every_template(chosen)
    for genome in walk(chosen, 6000):
        missing -= templates_of(genome)
        if not missing:
            return
    assert missing == set()


def test_bello2017_is_the_published_one() -> None:
    """Section 3 of arXiv 1709.07417: no momentum kinds, and decays that are linear, cosine and a restart, and nothing of them."""
    chosen = grammar("bello2017")
    assert chosen.kinds == ("plain",)
    assert (len(chosen.operands), len(chosen.unary), len(chosen.binary)) == (18, 12, 6)
    assert chosen.base_decays == ("a1", "a3", "a7")
    decays = {simplify(d.expression) for g in genomes(chosen, 300) for slot in g.slots for d in slot.decays if d is not None}
    assert decays == {template(text) for text in chosen.base_decays}


def test_extended_is_the_papers_and_more() -> None:
    paper, extended = paper_grammar(), grammar("extended")
    for key in ("operands", "unary", "binary"):
        assert getattr(extended, key)[: len(getattr(paper, key))] == getattr(paper, key)
    assert {"row_normalize(x)", "column_normalize(x)", "normalize(x)", "orthogonalize(x)"} <= set(extended.unary)
    assert "1e-2 * w" in extended.operands
    assert extended.decay_unary == paper.decay_unary


def test_no_template_is_spelled_twice() -> None:
    """Two spellings of one tree would be drawn twice as often."""
    for name in GRAMMARS:
        chosen = grammar(name)
        for key in ("operands", "unary", "binary", "base_decays", "decay_unary", "decay_binary"):
            trees = [template(text) for text in getattr(chosen, key)]
            assert len(set(trees)) == len(trees), (name, key)


def test_own_grammar_from_file_table_and_text(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    assert grammar(path) == grammar(str(path)) == from_toml(OWN)
    own = grammar(path)
    assert own.p_operand == 0.6
    assert own.hidden_nodes == paper_grammar().hidden_nodes  # left out: the paper's
    assert own.base_decays == ("a1", "a3", "1 - a1 * a3")


def test_extending_adds_to_lists_and_replaces_the_rest() -> None:
    paper, own = paper_grammar(), from_table({"extends": "paper", "unary": ["sign(x)", "tanh(x)"], "p_decay": 0, "kinds": ["plain"]})
    assert own.unary == (*paper.unary, "sign(x)")
    assert own.p_decay == 0.0
    assert own.kinds == ("plain",)
    assert own.operands == paper.operands


def test_arity_counts_distinct_holes() -> None:
    assert [arity_of(text) for text in ("g", "x * x", "x / sqrt(1 + y ** 2)")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operand": ["g"]}, "Unknown key 'operand' in a grammar.*Did you mean 'operands'?"),
        ({"operands": "g"}, r"Expected a list of texts for 'operands' of a grammar, got 'g'"),
        ({"operands": ["g", 1]}, "Expected a list of texts"),
        ({"name": 3}, "Expected a text for 'name'"),
        ({"hidden_nodes": 2.5}, "Expected a whole number from 1 to 100 for 'hidden_nodes' of a grammar, got 2.5"),
        ({"hidden_nodes": 101}, "from 1 to 100"),
        ({"hidden_nodes": 3}, "at least 4 hidden_nodes"),
        ({"hidden_nodes": 1, "p_operand": 1.0}, "at least 2 hidden_nodes"),
        ({"p_operand": 1.5}, "Expected a probability from 0 to 1"),
        ({"p_operand": True}, "Expected a probability from 0 to 1"),
        ({"p_operand": 0}, "Expected p_operand above 0"),
        ({"unary": ["softsgn(x)"]}, r"unary: Unknown operator 'softsgn'.*Did you mean 'softsign'\?"),
        ({"unary": ["tanh(x"]}, "unary: Expected '\\)', got the end"),
        ({"unary": ["tanh(g)"]}, r"Expected a template with 1 of the holes x, y among unary .*got 'tanh\(g\)'"),
        ({"binary": ["x + x"]}, "with 2 of the holes"),
        ({"operands": ["g", "w", "tanh(x)"]}, "with 0 of the holes"),
        ({"operands": ["g", "w"]}, "at least 3 operands"),
        ({"operands": ["g", "w", "g"]}, "at least 3 operands"),
        ({"unary": []}, "at least 1 unary"),
        ({"binary": []}, "at least 1 binary"),
        ({"kinds": []}, "at least 1 kinds"),
        ({"kinds": ["plain", "nestrov"]}, "Expected kinds among plain, momentum, nesterov"),
        ({"base_decays": ["a1", "g", "a2"], "decay_unary": ["identity(x)"], "decay_binary": ["x * y"]}, "function of the step alone"),
        ({"base_decays": ["a1", "a2", "a3"], "decay_unary": ["ema(x, 0.9)"], "p_decay_unary": 1}, "function of the step alone"),
        ({"base_decays": ["a1", "a2"], "decay_unary": ["identity(x)"], "decay_binary": ["x * y"]}, "at least 3 base_decays"),
        ({"base_decays": ["a1", "a2"]}, "at least 1 decay_unary"),
        ({"base_decays": ["a1", "a2"], "decay_unary": ["identity(x)"]}, "at least 1 decay_binary"),
        ({"extends": "papper"}, "Expected one of paper, bello2017, extended for 'extends'"),
        ({"extends": ["paper"]}, "for 'extends'"),
        ({"decays": 0}, "Expected true or false for 'decays' of a grammar, got 0"),
        ({"decays": "no"}, "Expected true or false"),
    ],
)
def test_mistakes_in_a_table(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_table({**SMALLEST, **changes})


def functions_of_the_step(genome: Genome) -> set[str]:
    return {node.name for node in genome.rule.expression.walk()} & {name for name, row in LEAVES.items() if not row.tensor}


@pytest.mark.parametrize(
    "table",
    [
        {"decays": False},
        {"decays": False, "p_decay": 1.0, "p_root_decay": 1.0, "base_decays": ["a1 * a2"]},
        {"extends": "extended", "decays": False},
        {"extends": "bello2017", "decays": False, "decay_binary": ["x * y"]},
        {**tomllib.loads(OWN), "decays": False},
        {**SMALLEST, "base_decays": ["a1"], "decays": False},  # too few to draw decays from, which nobody does
        SMALLEST,
    ],
    ids=str,
)
def test_no_decay_is_drawn_nor_added_by_a_mutation_where_they_are_switched_off(table: dict[str, Any]) -> None:
    chosen = from_table(table)
    count = 0
    for genome in [*genomes(chosen, 1000), *(child for seed in range(4) for child in walk(chosen, 500, seed))]:
        count += 1
        assert all(decay is None for slot in genome.slots for decay in slot.decays)
        assert not functions_of_the_step(genome)
    assert count == 3000


def test_the_share_of_mutated_decays_falls_to_the_other_mutations() -> None:
    off = from_table({"decays": False, "p_operand": 1.0})
    rng = np.random.default_rng(0)
    parent = sample_genome(rng, off)
    kinds = sum(mutate(parent, rng, off, always)[1].startswith("kind: ") for _ in range(4000))
    # A tenth of nine; somewhat more, since other children that are unchanged are drawn again.
    assert 1 / 9 - 0.01 < kinds / 4000 < 1 / 9 + 0.03


def test_decays_are_drawn_unless_they_are_switched_off() -> None:
    for chosen in (from_table({"decays": True}), from_table({"p_decay": 0, "p_root_decay": 0})):
        assert any(map(functions_of_the_step, walk(chosen, 200)))
    assert from_table({"decays": True}) == paper_grammar()


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"operands": ["a3 * g"]}, "'a3 [*] g' with a3"), ({"unary": ["x * b"]}, "with b"), ({"binary": ["a1 * x + a2 * y"]}, "with a1")],
)
def test_templates_made_of_decays_are_refused_where_decays_are_switched_off(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"without functions of the step in grammar 'paper', .* got .*{found}"):
        from_table({"extends": "paper", "decays": False, **changes})
    from_table({"extends": "paper", **changes})


@pytest.mark.parametrize("key", ["name", "operands", "unary", "binary"])
def test_a_missing_list(key: str) -> None:
    with pytest.raises(ConfigError, match=f"A grammar needs {key}: add them, or extend another"):
        from_table({other: value for other, value in SMALLEST.items() if other != key})


def test_grammars_that_cannot_be_found_or_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown grammar 'extnded'.*Did you mean 'extended'\?"):
        grammar("extnded")
    with pytest.raises(ConfigError, match=r"Cannot read the grammar .*none\.toml': No such file"):
        grammar(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        grammar(tmp_path / "bytes.toml")
    with pytest.raises(ConfigError, match="Expected a grammar in TOML, got text that is none"):
        from_toml("name = ")


def test_grammars_that_leave_no_room_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optevolve.space.sample.MAX_DRAWS", 100)
    circles = from_table({**SMALLEST, "p_operand": 1e-9})
    with pytest.raises(ConfigError, match="without a circle among 100 drawn from grammar 'smallest'"):
        genomes(circles, 1)
    high = {"base_decays": ["a1 + 1", "a2 + 1"], "decay_unary": ["identity(x)"], "p_decay_unary": 1, "p_decay": 1}
    with pytest.raises(ConfigError, match=r"decay with values in \[0, 1\] among 100"):
        genomes(from_table({**SMALLEST, **high}), 1)


@pytest.mark.parametrize("name", ["bello2017", "extended", "own"])
def test_a_search_runs_in_each(name: str) -> None:
    search = ALGORITHMS["particle"](Search(population=5, particles=2, timesteps=2, children=2), load(name), check_integrity, 0)
    rules = set()
    while (proposal := search.ask()) is not None:
        rules.add(proposal.rule)
        search.tell(proposal.id, Outcome(Status.COMPLETED, 1.0 / len(proposal.rule)))
    assert search.done
    assert len(rules) >= 13
    assert all(check_integrity(parse(rule)).ok for rule in rules)
