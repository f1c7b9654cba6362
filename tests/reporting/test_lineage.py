from optevolve.config import Protocol
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.reporting.lineage import lines_of_descent


def child(name, fitness, parent, timestep, particle=0, stage="evolution", rule=""):
    status = Status.COMPLETED if fitness is not None else Status.DIVERGED
    proposal = Proposal(
        name, rule or name, stage=stage, parent=parent, particle=particle if stage == "evolution" else -1, timestep=timestep
    )
    return Measurement(stage, Job(name, proposal.rule, "digits", Protocol(), 0), Outcome(status, fitness), proposal)


def positions(line):
    return [(step.position.job.id if step.position else None, step.moved) for step in line.steps]


START = [child("initial/0", 0.7, "", 0, stage="initial", rule="r"), child("p0/t0", 0.6, "initial/0", 0, rule="r")]


def test_line_follows_the_parents_that_children_name():
    brood = [child("p0/t1/c0", 0.5, "p0/t0", 1), child("p0/t1/c1", 0.55, "p0/t0", 1), child("p0/t2/c0", 0.4, "p0/t1/c1", 2)]
    (line,) = lines_of_descent(START + brood)
    assert positions(line) == [("p0/t0", True), ("p0/t1/c1", True), ("p0/t2/c0", True)]
    assert line.best.job.id == "p0/t0"


def test_parent_dies_even_if_better_unless_elitist():
    brood = [child("p0/t1/c0", 0.5, "p0/t0", 1)]
    assert positions(lines_of_descent(START + brood)[0])[-1] == ("p0/t1/c0", True)
    assert positions(lines_of_descent(START + brood, elitist=True)[0])[-1] == ("p0/t0", False)


def test_particle_stays_where_all_children_fail():
    brood = [child("p0/t1/c0", None, "p0/t0", 1), child("p0/t2/c0", 0.8, "p0/t0", 2)]
    assert positions(lines_of_descent(START + brood)[0]) == [("p0/t0", True), ("p0/t0", False), ("p0/t2/c0", True)]


def test_children_named_by_an_initial_rule_begin_at_its_second_measurement():
    brood = [child("p0/t1/c0", 0.5, "initial/0", 1)]
    assert positions(lines_of_descent(START + brood)[0])[0] == ("p0/t0", True)


def test_of_equal_children_the_first_in_place_is_chosen():
    # The first child failed and was drawn again, so that it was measured last.
    brood = [child("p0/t1/c0", None, "p0/t0", 1), child("p0/t1/c1", 0.9, "p0/t0", 1), child("p0/t1/c10", 0.9, "p0/t0", 1)]
    brood.append(child("p0/t1/c0/r1", 0.9, "p0/t0", 1))
    assert positions(lines_of_descent(START + brood)[0])[-1] == ("p0/t1/c0/r1", True)


def test_nothing_to_stand_on():
    (line,) = lines_of_descent([child("p0/t0", None, "", 0)])
    assert positions(line) == [(None, False)]
    assert line.best is None
    assert lines_of_descent([]) == []


def test_lines_with_the_best_rules_come_first():
    lines = lines_of_descent([child(f"p{i}/t0", f, "", 0, particle=i) for i, f in enumerate((0.3, None, 0.9))])
    assert [line.particle for line in lines] == [2, 0, 1]
