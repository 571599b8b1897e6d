"""A few rounds of the properties of `properties.configuration`, which has the long runs."""

from __future__ import annotations

import pathlib
import random

import pytest
from properties import configuration


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "trustgate.db")
    return request.getfixturevalue("postgres_database")


def test_a_writer_that_is_killed_loses_nothing_it_acknowledged(address: str) -> None:
    assert configuration.crash(address, 3, random.Random(7))["kills"] == 3


def test_a_script_in_other_processes_never_gets_a_stale_answer(address: str) -> None:
    assert configuration.fresh(address, 10)["repetitions"] == 10
