"""The gallery of optimizers says what the package says now, and has every figure that it shows."""

import importlib.util
import json
import re
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from optevolve.compile import class_of
from optevolve.library import SCHEDULES, ZOO
from optevolve.optim import class_name
from optevolve.space.latex import latex, latex_expression
from optevolve.space.show import describe

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "optimizers"
PAGE = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")


def shown_by(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.svg")}


def github(text: str) -> str:
    """A block of math as GitHub takes it."""
    return "```math\n" + text.replace(r"\operatorname{", r"\mathrm{") + "\n```"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "benchmarks" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_text_is_what_the_package_says_now(gallery: ModuleType) -> None:
    assert gallery.page() == PAGE, "The page is out of date; write it anew: make docs"


def test_every_rule_is_there() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert list(sections) == [class_name(name) for name in ZOO]
    costs = json.loads((FIGURES / "cost.json").read_text(encoding="utf-8"))["rules"]
    for name, row in ZOO.items():
        shown, section = describe(row.rule), sections[class_name(name)]
        states = class_of(row.rule).STATES
        assert f"\n{row.rule}\n" in section
        assert github(latex(row.rule)) in section
        assert [buffer for buffer, _ in shown.buffers] == ["m" if state == "momentum_buffer" else state for state in states]
        assert all(f"`{buffer} ← {following}`" in section for buffer, following in shown.buffers)
        assert (f"{4 * len(states)} bytes per parameter: " in section) == bool(states)
        assert f"{costs[name]['ratio']:.2f} × fused AdamW" in section
        assert f"{12 + 8 * len(states)} bytes moved" in section
        assert (f"to start from: {row.learning_rate:g}, the default" in section) if row.learning_rate else ("none given" in section)
        found = {} if row.measured is None else row.measured.tasks
        assert all(f"{kind} {at.best:g} ({at.low:g} … {at.high:g}" in section for kind, at in found.items())
        assert f"](optimizers/{name}-path.svg)" in section
        assert (f"](optimizers/{name}-decays.svg)" in section) == bool(shown.decays)
    assert all(f"[{class_name(name)}](#{class_name(name).lower()})" in PAGE for name in ZOO)


def test_every_schedule_is_there() -> None:
    assert all(f"`{name}`, natively `" in PAGE and github(latex_expression(node)) in PAGE for name, node in SCHEDULES.items())


def test_links_and_figures_are_the_same_and_small() -> None:
    linked = re.findall(r"\]\(optimizers/([\w-]+)\.svg\)", PAGE)
    assert len(linked) == len(set(linked))
    assert set(linked) == shown_by(FIGURES)
    assert sum(path.stat().st_size for path in FIGURES.glob("*.svg")) < 1_500_000


def test_figures_are_drawings_on_a_ground_of_their_own() -> None:
    for path in FIGURES.glob("*.svg"):
        drawing = ET.parse(path).getroot()  # sound XML
        paths = [element.get("d") for element in drawing.iter("{http://www.w3.org/2000/svg}path")]
        assert "#fdfdfe" in ET.tostring(drawing, encoding="unicode")  # legible on a dark page too
        for words in (data.split() for data in paths):
            assert words[0] == "M"
            assert not any(one == "z" and other[0] not in "Mz" for one, other in pairwise(words))


def test_a_rule_by_itself(gallery: ModuleType, tmp_path: Path) -> None:
    gallery.main(["opt6"], tmp_path)
    assert shown_by(tmp_path / "optimizers") == {"opt6-path", "opt6-decays"}
    assert (tmp_path / "optimizers.md").read_text(encoding="utf-8") == PAGE
    told = (tmp_path / "optimizers" / "opt6-path.svg").read_text(encoding="utf-8")
    assert "Opt6: loss" in told
    assert "Adam: loss" in told
    with pytest.raises(SystemExit, match="got opt66"):
        gallery.main(["opt66"], tmp_path)


def test_short_paths_draw_the_same(gallery: ModuleType) -> None:
    def shortened(data: str) -> str:
        return re.sub(r' d="([^"]*)"', gallery._short_path, f' d="{data}"')

    assert shortened("M 1.04 2 \nL 3 -0.04 \nL 5 6 \n") == ' d="M 1 2 3 0 5 6"'
    assert shortened("M 0 0 \nC 1 1 2 2 3 3 \nL 4 4 \nL 5 5 \nz\n") == ' d="M 0 0 C 1 1 2 2 3 3 L 4 4 5 5 z"'
    assert shortened("M 0 0 \nL 1 1 \nz\nL 2 2\nM 10.26 4") == ' d="M 0 0 1 1 z L 2 2 M 10.3 4"'


def test_gradients_and_minima_of_the_surfaces(gallery: ModuleType) -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (20, 2))
    for surface in gallery.SURFACES:
        slopes = [(surface.loss(points + step) - surface.loss(points - step)) / 2e-6 for step in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(np.stack(slopes, -1), surface.gradient(points), rtol=1e-5, atol=1e-4)
        assert surface.loss(np.array(surface.minimum)) == 0
        assert np.all(surface.loss(points) > 0)


@pytest.mark.parametrize("name", ["adam", "opt6", "opt4_static"])
def test_path_is_the_one_that_torch_walks(gallery: ModuleType, name: str) -> None:
    """The optimizer a user gets, at the learning rate the legend names, goes where the figure says."""
    surface = gallery.SURFACES[1]
    best = gallery.best_path(ZOO[name].rule, surface)
    w = torch.nn.Parameter(torch.tensor(surface.start))
    optimizer = class_of(ZOO[name].rule)([w], lr=best.learning_rate, total_steps=gallery.STEPS, momentum=gallery.MOMENTUM)
    walked = [w.detach().clone()]
    for factor in gallery.schedule_values(1.0, gallery.STEPS, 0)[0]:
        w.grad = torch.from_numpy(surface.gradient(w.detach().numpy()).astype(np.float32))
        optimizer.param_groups[0]["lr"] = best.learning_rate * float(factor)
        optimizer.step()
        walked.append(w.detach().clone())
    np.testing.assert_allclose(torch.stack(walked).numpy(), best.points, atol=1e-2)
    assert best.loss == pytest.approx(surface.loss(best.points[-1].astype(float)))


def test_paths_are_steady_and_stay_in_the_view(gallery: ModuleType) -> None:
    for surface in gallery.SURFACES:
        best = gallery.best_path(ZOO["momentum"].rule, surface)
        left, right, low, high = surface.view
        assert best.points.shape == (gallery.STEPS + 1, 2)
        assert np.all((best.points >= (left, low)) & (best.points <= (right, high)))
        assert np.linalg.norm(np.diff(best.points, axis=0), axis=-1).max() <= gallery.LONGEST_STEP
        assert best.learning_rate in gallery.LEARNING_RATES
        assert best.loss < 0.5 * surface.loss(np.array(surface.start))
