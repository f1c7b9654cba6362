import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optevolve.config import RunConfig
from optevolve.errors import StudyError
from optevolve.reporting.figures import write_figures


def test_a_finished_study_gives_a_figure_of_each_kind_per_task(tmp_path: Path, make_study: Callable[..., Any]) -> None:
    study = make_study()
    written = write_figures(tmp_path / "new", config=study.config, measurements=study.measurements, comparisons=study.comparisons)
    names = {"progress", "descent", "comparison-1", "comparison-2", "curves-1", "curves-2"}
    assert {path.stem for path in written} == names == {path.stem for path in (tmp_path / "new").iterdir()}
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert ET.fromstring(text).tag.endswith("svg")
        assert "var(--" not in text, "a file of its own has no style sheet to take colours from"


def test_a_study_without_measurements_gives_none(tmp_path: Path, config: RunConfig) -> None:
    assert write_figures(tmp_path, config=config, measurements=[], comparisons=[]) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, make_study: Callable[..., Any]) -> None:
    (tmp_path / "taken").write_text("a file")
    study = make_study()
    with pytest.raises(StudyError, match="Cannot write figures"):
        write_figures(tmp_path / "taken", config=study.config, measurements=study.measurements, comparisons=study.comparisons)
