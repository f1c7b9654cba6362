"""Modules beside the tests are found, by this process and, through its search path, by workers; empty places for studies."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from places import fresh_place


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    with fresh_place(request.param) as place:
        yield place


@pytest.fixture
def postgres() -> Iterator[str]:
    with fresh_place("postgresql") as place:
        yield place
