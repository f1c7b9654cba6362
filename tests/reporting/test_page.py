"""The page: what it holds, that it loads nothing, that nothing it shows can become markup, and that it copes with any run."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from optevolve.config import Evaluation, Search
from optevolve.config_text import to_toml
from optevolve.contestants import place_of
from optevolve.errors import StudyError
from optevolve.evaluation import compare
from optevolve.library.known import rule_text
from optevolve.printable import shielded
from optevolve.records import Measurement, Outcome, Status
from optevolve.reporting import write_report
from optevolve.reporting.page import render_report
from optevolve.verdict import verdicts

SECTIONS = ("evaluation", "leaderboard", "progress", "descent", "curves", "schedules", "deaths", "cost", "reproduce")
HOSTILE = """x</title></style></svg>'"><script>alert(1)</script><img src=x onerror=alert(2)> &lt;b&gt; {{ 7*7 }} $x_1$"""
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements, attributes and visible text of a page; fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("id")]


def render(study, finished=True, title="A run", **more):
    given = {"config": study.config, "measurements": study.measurements, "comparisons": study.comparisons, **more}
    return render_report(title=title, finished=finished, **given)


def without_data(html: str) -> str:
    return re.sub(r'"data:image/png;base64,[^"]*"', '"data:"', html)


def assert_loads_nothing(html: str) -> None:
    page = Page(html)
    bare = without_data(html)
    assert not re.search(r"https?:|file:|@import|url\((?!#)", bare)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "link", "object", "embed", "base", "form", "foreignobject"}
    for _, attrs in page.tags:
        assert not {name for name in attrs if name.startswith("on") or name in {"src", "srcset", "action", "formaction"}}
        # As visible text "//" loads nothing (the config's comments name ray://HOST); as the beginning of an attribute it may.
        assert not [value for value in attrs.values() if value and value.strip().startswith("//")]
        for name in ("href", "xlink:href"):
            if attrs.get(name):
                assert attrs[name].startswith(("#", "data:image/png;base64,"))


@pytest.fixture(scope="module")
def study(make_study):
    return make_study()


@pytest.fixture(scope="module")
def html(study):
    return render(study, config_text=to_toml(study.config))


def test_holds_every_section_and_figure(html, study):
    page = Page(html)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert len(page.ids) == len(set(page.ids))
    # Two comparisons, progress, descent, two tasks' curves, schedule, two rules with decays, deaths.
    assert sum(tag == "svg" for tag, _ in page.tags) == 10
    for row in study.comparisons:
        assert row.name in page.text
        assert rule_text(row.rule) in page.text
    for stage in ("initial", "evolution", "tune", "evaluate", "total"):
        assert stage in page.text
    assert "becomes a particle" in page.text
    assert "best trial score … of … learning rates (at …) below …" in page.text
    assert "max(a6, a10)" in page.text
    assert 'task = "digits"' in page.text
    assert "optevolve search config.toml" in page.text
    assert "evaluation.seeds" in page.text


def test_loads_nothing(html):
    assert_loads_nothing(html)


def test_is_the_same_every_time(html, study):
    assert render(study, config_text=to_toml(study.config)) == html


def test_colours_follow_the_theme(html):
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--ink)" in drawn
    assert re.findall(r"(?:fill|stroke): #\w+", drawn) == []
    style = html[html.index("<style>") : html.index("</style>")]
    assert set(re.findall(r"var\((--\w+)\)", html)) <= set(re.findall(r"(--\w+):", style))


def test_tuned_weight_decays_stand_beside_the_learning_rates(study):
    decayed = [replace(row, weight_decay=0.07771) for row in study.comparisons]
    page = Page(render(study, comparisons=decayed))
    assert "Weight decay" in page.text
    assert page.text.count("0.07771") == len(decayed)


def spoilt(study, text: str) -> str:
    """The report of a run in which every text has that one in it."""
    measurements = []
    for m in study.measurements:
        outcome, proposal = replace(m.outcome, device=text), m.proposal
        if outcome.status is not Status.COMPLETED or m.stage == "tune":
            outcome = replace(outcome, status=Status.FAILED, fitness=None, reason=text + " reason")
        if proposal is not None:
            rejected = tuple((text + " refused", text + " why") for _ in proposal.rejected)
            proposal = replace(proposal, rule=f"{text} {proposal.rule}", mutation=text + " mutation", rejected=rejected)
        job = replace(m.job, rule=f"{text} {m.job.rule}", task=text + m.job.task)
        measurements.append(replace(m, job=job, outcome=outcome, proposal=proposal))
    comparisons = [
        replace(row, name=row.name + text if row.name != "adam" else "adam", reason=text + " row") for row in compare(measurements)
    ]
    said = {"title": text, "config_text": text + " toml", "command": text + " command", "notes": [text], "floors": text}
    config = replace(study.config, task=text, data=text, grammar=text)
    return render(study, config=config, measurements=measurements, comparisons=comparisons, **said)


def test_everything_shown_is_escaped(study):
    page = Page(html := spoilt(study, HOSTILE))
    assert_loads_nothing(html)
    clean = Page(render(study, notes=["a note"]))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    shown = re.sub(r"\s+", " ", HOSTILE)
    for ending in (" reason", " refused", " why", " mutation", " row", " toml", " command"):
        assert shown + ending in page.text
    assert page.text.count(shown) > 100  # in tables, figures, headings: as the text that it is


def test_huge_texts_that_would_hide_what_stands_beside_them_leave_a_page_that_can_be_read(study):
    html = spoilt(study, (HOSTILE + "\x1b[2J\x9b\x00\u202e\u2066\u200b") * 2_000)
    assert_loads_nothing(html)
    assert len(html.encode()) < 5_000_000
    assert not [c for c in set(html) if shielded(c) != c]
    text = Page(html).text
    for said in ("Leaderboard", "Where candidates died", "more characters", "\\x1b[2J", "\\u202e"):
        assert said in text


def test_empty_run(study):
    page = Page(html := render(study, finished=False, measurements=[], comparisons=[]))
    assert_loads_nothing(html)
    for said in ("not finished", "Nothing has been measured yet", "No verdict yet", "No candidate has a fitness yet"):
        assert said in page.text


@pytest.mark.parametrize("count", [1, 7, 61, 75])
def test_interrupted_run(study, count):
    page = Page(html := render(study, finished=False, measurements=study.measurements[:count], comparisons=[]))
    assert_loads_nothing(html)
    assert "not finished" in page.text
    assert "No verdict yet" in page.text


def test_interrupted_in_the_final_evaluation(study):
    final = [m for m in study.measurements if m.stage == "evaluate"]
    some = [m for m in study.measurements if m.stage != "evaluate"] + final[:7]
    page = Page(render(study, finished=False, measurements=some, comparisons=compare(some)))
    assert "tuned, not evaluated yet" in page.text
    assert "not finished" in page.text


def test_nothing_completed(study):
    died = [
        replace(
            m, outcome=replace(m.outcome, status=Status.DIVERGED, fitness=None, learning_rate=None, curves=(), reason="the loss is NaN")
        )
        for m in study.measurements
    ]
    page = Page(html := render(study, measurements=died, comparisons=compare(died)))
    assert "No candidate has a fitness." in page.text
    assert not re.search(r"\byet\b", page.text), "the run has ended"
    assert "no evolved rule finished its tuning" in page.text
    assert 'aria-label="Fitness of each' not in html
    assert 'aria-label="Children' not in html
    assert "the loss is NaN" in page.text


def test_a_point_is_no_curve(study):
    def ends(m, stages):
        last = tuple(replace(c, steps=c.steps[-1:], score=c.score[-1:], train_loss=c.train_loss[-1:]) for c in m.outcome.curves)
        return replace(m, outcome=replace(m.outcome, curves=last)) if m.stage in stages or not stages else m

    final = render(study, measurements=[ends(m, ("evaluate",)) for m in study.measurements])
    assert 'aria-label="Learning curves on' in render(study)
    assert 'aria-label="Learning curves on' not in final
    assert 'aria-label="Learning curves of the best rules of the search' in final
    assert "The final evaluation took scores once in a run" in Page(final).text
    none = render(study, measurements=[ends(m, ()) for m in study.measurements])
    assert 'aria-label="Learning curves' not in none
    assert "there is no curve to draw" in Page(none).text


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of means over infinities
def test_numbers_out_of_range(study):
    wild = [1e300, -1e300, float("inf"), float("-inf"), float("nan"), 1e-300]
    odd = [
        replace(m, outcome=replace(m.outcome, status=Status.COMPLETED, fitness=wild[i % len(wild)])) if m.stage != "tune" else m
        for i, m in enumerate(study.measurements)
    ]
    assert_loads_nothing(render(study, measurements=odd, comparisons=compare(odd)))


def test_other_algorithms_have_no_lines_of_descent(study):
    config = replace(study.config, search=Search(algorithm="random"))
    flat = [replace(m, proposal=m.proposal and replace(m.proposal, particle=-1)) for m in study.measurements]
    assert "has no particles" in Page(render(study, config=config, measurements=flat)).text


def test_own_baselines(study):
    config = replace(study.config, evaluation=Evaluation(baselines=("sgd",)))
    final = ("tune", "evaluate")
    kept = [m for m in study.measurements if m.stage not in final or place_of(m).name.startswith("evolved") or place_of(m).name == "sgd"]
    text = Page(render(study, config=config, measurements=kept, comparisons=compare(kept))).text
    assert "the best of the baselines, SGD" in text
    assert "AdamW is not among the baselines" in text


def test_the_verdict_stands_on_top_and_the_table_says_which_p_is_which(html, study):
    page = Page(html)
    verdict = verdicts(study.comparisons)[0]
    assert str(verdict) in page.text
    assert page.text.index(str(verdict)) < page.text.index("candidates measured")
    assert "p corrected" in page.text
    assert "handed over" in page.text


def test_adamw_is_a_level_in_the_progress_plot(study):
    level = Measurement("reference", replace(study.measurements[-1].job, id="reference/adamw"), Outcome(Status.COMPLETED, 0.123))
    with_level = render(study, measurements=[*study.measurements, level])
    assert "AdamW, measured as" in with_level
    lost = replace(level, outcome=Outcome(Status.STOPPED, reason="weak"))
    assert "AdamW, measured as" not in render(study, measurements=[*study.measurements, lost])


def test_lost_seeds_are_shown_in_the_table(study):
    row = next(m for m in study.measurements if m.stage == "evaluate" and place_of(m).name == "sgd")
    lost = replace(row, outcome=Outcome(Status.DIVERGED, reason="the loss is NaN"))
    found = [lost if m is row else m for m in study.measurements]
    assert "1 of 5 diverged" in Page(render(study, comparisons=compare(found))).text


def test_large_run_stays_small(make_study):
    large = make_study(population=10_000, particles=50, timesteps=6, children=6, curves=False)
    html = render(large)
    assert len(large.measurements) > 10_000
    assert len(html.encode()) < 3_000_000
    assert_loads_nothing(html)
    assert "The best 40 of" in Page(html).text


def test_long_texts_are_cut(study):
    endless = [replace(m, job=replace(m.job, rule="g + " * 100_000 + "g")) for m in study.measurements[:10]]
    html = render(study, measurements=endless, comparisons=[])
    assert len(html) < 500_000
    assert "more characters" in html


def test_file_appears_whole_or_not_at_all(study, tmp_path: Path, monkeypatch):
    path = tmp_path / "report.html"
    given = {"title": "A run", "config": study.config, "measurements": [], "comparisons": [], "finished": False}
    write_report(path, **given)
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]

    class FullDisk(io.FileIO):
        def write(self, data):
            super().write(data[:100])
            raise OSError(28, "No space left on device")

    whole = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *how, **named: FullDisk(self, mode) if mode == "wb" else whole(self, mode, *how, **named)
    )
    with pytest.raises(StudyError, match=r"Cannot write the report .*No space left on device.*free some space"):
        write_report(path, **{**given, "title": "Another"})
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_missing_folder_is_told(study, tmp_path: Path):
    with pytest.raises(StudyError, match="Cannot write the report"):
        write_report(tmp_path / "no" / "report.html", title="", config=study.config, measurements=[], comparisons=[], finished=False)
