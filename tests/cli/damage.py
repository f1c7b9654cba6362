"""Ways to damage a study: every table, every column, every value within JSON, rows, the schema, the file itself."""

import json
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
HOSTILE_JSON = [
    "null", "true", "-1", "0", "0.5", "1e308", "-1e308", "1e400", "9" * 400, '""', '"x"', '"NaN"', "[]", "[null]", "[-1]", "[[1]]", "{}",
    '{"a": 1}', "[" * 1200 + "]" * 1200,
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


def paths_of(store: Path) -> list[tuple[str, str, str]]:
    """Table, column and path of what stands within JSON, one of each."""
    found: dict[tuple[str, str, str], None] = {}
    with closing(sqlite3.connect(store)) as connection:
        for table, column in (("evaluations", "protocol"), ("evaluations", "task_scores"), ("events", "detail"), ("curves", "steps"),
                              ("curves", "score"), ("curves", "train_loss")):  # fmt: skip
            for (text,) in connection.execute(f"select distinct {column} from {table}"):
                found |= {(table, column, path): None for path in _paths(json.loads(text))}
    return list(found)


def _paths(value: object, here: str = "$") -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        path = f"{here}[{key}]" if isinstance(value, list) else f'{here}."{key}"'
        yield path
        yield from _paths(item, path)


def _set_within(table: str, column: str, path: str, value: str) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        where = f"json_extract({column}, ?) is not null or json_type({column}, ?) = 'null'"
        rows = connection.execute(f"select rowid, {column} from {table} where {where}", (path, path)).fetchall()
        for row, text in rows:
            marked = connection.execute("select json_set(?, ?, 'HERE')", (text, path)).fetchone()[0]  # SQLite itself knows less JSON
            connection.execute(f"update {table} set {column} = ? where rowid = ?", (marked.replace('"HERE"', value), row))

    return change


def _edits(columns: list[tuple[str, str]], paths: list[tuple[str, str, str]], draw: random.Random) -> Iterator[Edit]:
    """Endlessly: each column and each value within JSON in turn becomes hostile, and between them rows and tables go."""
    while True:
        for number, (table, column, path) in enumerate(paths):
            value = draw.choice(HOSTILE_JSON)
            yield f"{table}.{column} {path} = {value:.60}", _set_within(table, column, path, value)
            if number < len(columns):
                other, name = columns[number]
                hostile, every = draw.choice(HOSTILE), draw.random() < 0.3
                yield f"{other}.{name} = {hostile!r:.60}{' everywhere' if every else ''}", _set(other, name, hostile, every)
        for kind in ("ended", "extended", "floors"):
            detail = draw.choice(HOSTILE_JSON)
            yield (
                f"an event {kind} {detail:.60}",
                _run(f"insert into events (study, at, kind, detail) values (1, '2026-01-02 03:04:05', '{kind}', '{detail}')"),
            )
        yield "a trigger", _run("create trigger own after update on studies begin delete from curves; end")
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
    columns, paths = columns_of(source), paths_of(source)
    draw.shuffle(columns)
    draw.shuffle(paths)
    edits = _edits(columns, paths, draw)
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
