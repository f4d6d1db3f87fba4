"""What tests of the command line share."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from poundlock.cli.main import commands

APP = """
from poundlock import Condition, Exclusive, StateRef, Workflow

orders = Workflow("orders")

@orders.on("order.placed", key="order")
@orders.step
def reserve(order):
    return {"reserved": True}

orders.wait("approval", on="order.approved", correlate={"order": StateRef("order")}, timeout="3d")

@orders.step
def ship(order, by="nobody"):
    if by == "nobody":
        raise ValueError("who approved it?")
    return {"shipped": f"{order} for {by}"}

audit = Workflow("audit", mode=Exclusive(key="order"))

@audit.on("order.placed", when=[Condition("amount", ">", 100)])
@audit.step
def look(order):
    return {"seen": order}
"""


class Said(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command in this process: `(*words) -> Said`."""
    monkeypatch.chdir(tmp_path)
    for name in ("POUNDLOCK_STORE", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            commands()(args=[str(word) for word in words], prog_name="poundlock")
        out, err = capsys.readouterr()
        return Said(ended.value.code or 0, out, err)

    return run


@pytest.fixture
def app(tmp_path):
    """Return the path of an app with two workflows."""
    path = tmp_path / "orders_app.py"
    path.write_text(APP, encoding="utf-8")
    return path


@pytest.fixture
def feed(tmp_path):
    """Write lines, texts or plain data, to a file of events and return its path."""

    def write(*lines, name="events.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def store(tmp_path):
    """Return the URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"
