"""Ways to damage a study: every table, every column, rows, the schema, the file itself."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

HOSTILE: list[object] = [
    None, "", "x", "nan", "NaN", "null", "[]", "{}", "[1]", "[NaN]", "[Infinity]", '["Infinity"]', '[1, 2, 3, 4]', "[[]]", '{"a": [1]}',
    '{"schedule": 1}', '{"schedule": {}, "kind": []}', "{", "\x00", "\ud7ff", "é" * 3000, "a/b", "../../x", "eliminate/x", "evaluate",
    "evaluate/a/b/seed-x", "tune/a", "initial", "completed", "2024-13-40 99:99:99", "9" * 5000, "[" * 2000, b"\xff\xfe\x00", b"", 0, -1, 1,
    2**62, -(2**63), 0.5, float("inf"), float("-inf"), 1e308, -1e-320, "momentum: g", "<script>", "task = 3", 'task = "nope"', "1e400",
]  # fmt: skip
TABLES = ["studies", "proposals", "rejections", "evaluations", "curves", "events", "optevolve_schema"]

Edit = tuple[str, Callable[[sqlite3.Connection], None]]


def _set(table: str, column: str, value: object, all_rows: bool) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        where = "" if all_rows else f" where rowid = (select rowid from {table} order by random() limit 1)"
        connection.execute(f"update or ignore {table} set {column} = ?{where}", (value,))

    return change


def _run(*statements: str) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return change


def columns_of(store: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(store)) as connection:
        return [(table, row[1]) for table in TABLES for row in connection.execute(f"pragma table_info({table})")]


def _edits(columns: list[tuple[str, str]], draw: random.Random) -> Iterator[Edit]:
    """Endlessly: each column in turn gets a hostile value, and between them rows and tables go."""
    while True:
        for table, column in columns:
            value, every = draw.choice(HOSTILE), draw.random() < 0.3
            yield f"{table}.{column} = {value!r:.60}{' everywhere' if every else ''}", _set(table, column, value, every)
        for table in TABLES:
            yield f"{table} emptied", _run(f"delete from {table}")
            yield f"half of {table}", _run(f"delete from {table} where rowid % 2 = {draw.randrange(2)}")
            yield f"{table} dropped", _run(f"drop table {table}")
            yield f"{table} of other columns", _run(f"drop table {table}", f"create table {table} (id integer primary key, name text)")
        yield "two versions", _run("insert into optevolve_schema values ('0001')")
        yield "newer version", _run("update optevolve_schema set version_num = '9999'")
        for table, column in columns:
            yield (
                f"{table}.{column} dropped",
                _run("drop index if exists ix_curves_evaluation", f"alter table {table} drop column {column}"),
            )


def damaged(source: Path, target: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Makes `count` damaged copies of a study at `target`, one after the other, and says what was done to each."""
    draw = random.Random(seed)
    columns = columns_of(source)
    draw.shuffle(columns)
    edits = _edits(columns, draw)
    done = 0
    while done < count:
        for side in target.parent.glob(target.name + "*"):
            side.unlink()
        shutil.copy(source, target)
        if done % 12 == 11:
            done += 1
            yield _spoil(target, draw)
            continue
        what, change = next(edits)
        with closing(sqlite3.connect(target, isolation_level=None)) as connection:
            connection.execute("pragma journal_mode=delete")
            try:
                change(connection)
            except sqlite3.Error:  # what SQLite itself refuses, such as null in a primary key
                continue
        done += 1
        yield what


def _spoil(target: Path, draw: random.Random) -> str:
    size = target.stat().st_size
    kind = draw.choice(["truncated", "overwritten", "empty", "text"])
    if kind == "truncated":
        with target.open("r+b") as file:
            file.truncate(draw.randrange(1, size))
    elif kind == "overwritten":
        with target.open("r+b") as file:
            for _ in range(draw.randrange(1, 20)):
                file.seek(draw.randrange(size))
                file.write(draw.randbytes(draw.randrange(1, 400)))
    else:
        target.write_bytes(b"" if kind == "empty" else b"hello\n" * 100)
    return f"file {kind}"
