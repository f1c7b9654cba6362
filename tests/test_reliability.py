"""What docs/reliability.md and docs/threat-model.md say of files, tables and commands is so."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Integer

from optevolve.run.store import Study
from optevolve.run.store.tables import METADATA

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("reliability.md", "threat-model.md")}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_is_there(page: str) -> None:
    named = re.findall(r"`((?:tests/[\w/]*)?test_\w+\.py)`", PAGES[page])
    assert len(named) > 10
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in named:
        assert name in there if "/" in name else any(path.endswith(f"/{name}") for path in there), name


def test_every_command_for_a_full_run_sets_what_its_test_reads() -> None:
    commands = re.findall(r"`(OPTEVOLVE_TEST_\w+)=\w+ pytest (tests/[\w/]+\.py)`", PAGES["reliability.md"])
    assert len(commands) >= 4
    for variable, file in commands:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f'os.environ.get("{variable}"' in text, file
        assert "pytest.mark.timeout(" in text, f"{file}: a full run takes longer than a test may"


def test_the_tables_are_those_of_the_page() -> None:
    said = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", PAGES["reliability.md"].partition("## The tables")[2], re.MULTILINE))
    said.pop("optevolve_schema")
    assert said.keys() == METADATA.tables.keys()
    for name, table in METADATA.tables.items():
        hidden = {column.name for column in table.columns if column.primary_key and isinstance(column.type, Integer)} | {"study"}
        assert re.findall(r"`(\w+)`", said[name]) == [column.name for column in table.columns if column.name not in hidden], name


def test_the_queries_of_the_page_run(tmp_path: Path) -> None:
    queries = re.search(r"```sql\n(.*?)```", PAGES["reliability.md"], re.DOTALL)
    assert queries is not None
    Study.create(tmp_path / "study.db", "x").close()
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        for query in filter(str.strip, queries[1].split(";")):
            assert connection.execute(query).fetchall() == []
