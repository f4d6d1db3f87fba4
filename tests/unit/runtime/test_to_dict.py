"""Runs and results as plain data, for answers, logs and exports."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_serializer

from poundlock import Condition, Jump, RunInfo, RunResult, StateRef, Terminate, Workflow
from poundlock.marks import DELETE
from poundlock.model.runs import RunError
from poundlock.model.views import StateView
from poundlock.showing import plain

RUN = {
    "run_id", "workflow_id", "pipeline_id", "trigger_id", "status", "stage", "key", "attempt", "created_at",
    "updated_at", "wake_at", "parent_id", "lineage", "waits", "progress", "error", "paused_by",
}  # fmt: skip
RESULT = {"run_id", "workflow_id", "status", "ok", "state", "result", "error", "waits", "metadata"}
WAIT = {
    "id", "events", "where", "correlate", "parked", "expires_at", "resume_at", "leads_to",
    "token", "mode", "have", "need", "form",
}  # fmt: skip
ERROR = {"type", "message", "code", "stage", "step"}


def through_json(data):
    """Return what a program that gets the JSON text reads; NaN and the like are no JSON."""
    return json.loads(json.dumps(data, allow_nan=False))


async def test_a_paused_run(runtime, any_store):
    """A run at a wait, and its result, in the documented shape, with dates and Decimals as text."""
    wf = Workflow("wf")

    @wf.on("asked", key="id")
    @wf.step
    async def first():
        return {"due": dt.date(2030, 1, 2), "amount": Decimal("1.50")}

    wf.wait(
        "answer",
        on=["answered", "refused"],
        correlate={"id": StateRef("id"), "due": StateRef("due")},
        where=[Condition("amount", ">=", Decimal(1))],
        timeout=60,
    )
    rt = await runtime(wf, store=any_store)
    [result] = await (await rt.emit("asked", id=1)).results()
    told = result.to_dict()
    assert through_json(told) == told
    assert set(told) == RESULT
    assert (told["status"], told["ok"], told["error"]) == ("paused", True, None)
    assert told["state"] == {"id": 1, "due": "2030-01-02", "amount": "1.50"}
    [wait] = told["waits"]
    assert set(wait) == WAIT
    assert wait["events"] == ["answered", "refused"]
    assert wait["correlate"] == {"id": 1, "due": "2030-01-02"}
    assert wait["where"] == [{"field": "amount", "op": ">=", "value": "1"}]
    for info in (await rt.get_run(result.run_id), rt.watch("wf", result.run_id)):
        shown = info.to_dict()
        assert through_json(shown) == shown
        assert set(shown) == RUN
        assert (shown["status"], shown["key"], shown["waits"]) == ("paused", "1", [wait])


class Kind(enum.Enum):
    BOOK = "book"


class State(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    order_id: int = Field(default=0, alias="orderId")
    when: dt.datetime | None = None


async def test_ends(runtime, any_store):
    """A failed run has its error without a traceback; a typed state is an object; a result is plain."""
    wf = Workflow("wf", state=State)

    @wf.step
    async def first(ctx):
        return {"when": dt.datetime(2030, 1, 2, tzinfo=dt.UTC)}

    @wf.route(after="first")
    def way(state):
        if state.order_id == 7:
            raise ValueError("no")
        return Terminate({"id": uuid.UUID(int=1), "n": (1, 2)})

    rt = await runtime(wf, store=any_store)
    good = (await rt.run("wf", orderId=1)).to_dict()
    assert through_json(good) == good
    assert good["state"]["orderId"] == 1
    assert good["state"]["when"].startswith("2030-01-02T00:00:00")
    assert good["result"] == {"id": str(uuid.UUID(int=1)), "n": [1, 2]}
    bad = await rt.run("wf", orderId=7)
    told = bad.to_dict()
    assert through_json(told) == told
    assert set(told["error"]) == ERROR
    assert (told["ok"], told["error"]["message"]) == (False, "no")
    assert (await rt.get_run(bad.run_id)).to_dict()["error"] == told["error"]


class Hostile(BaseModel):
    @model_serializer
    def refuse(self) -> Any:
        raise SystemExit("no")


class Nameless(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")


class Odd(metaclass=Nameless):
    def __repr__(self):
        raise RuntimeError("cannot be shown")


class Angry(dict):
    def items(self):
        raise RuntimeError("no items")


class Yes(enum.IntEnum):
    YES = 1


@dataclass
class Point:
    x: int
    y: Any


def nested(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (StateView({"a": [1, {"b": None}]}), {"a": [1, {"b": None}]}),
        (Kind.BOOK, "book"),
        (Yes.YES, 1),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, True),
        (b"ab", "YWI="),
        (dt.timedelta(minutes=1), 60.0),
        (dt.time(1, 2), "01:02:00"),
        ({1: "a", None: "b", Kind.BOOK: "c"}, {"1": "a", "None": "b", "book": "c"}),
        ({frozenset({1})}, [[1]]),
        (Point(1, Point(2, None)), {"x": 1, "y": {"x": 2, "y": None}}),
        (DELETE, "DELETE"),
        ("\ud800", "\\ud800"),
        (Hostile(), "<Hostile>"),
        (Odd(), "<Odd>"),
        (Angry(a=1), "<Angry>"),
        (10**5000, "<int>"),
        (Jump("x"), {"stage": "x", "patch": None}),
    ],
    ids=map(str, range(19)),  # hostile values cannot name themselves
)
def test_any_value_can_be_shown(value, expected):
    """Whatever stands in a state or result: there is something that JSON can hold, and nothing raises."""
    assert plain(value) == expected
    assert through_json(plain({"in": [value]})) == {"in": [expected]}


def test_what_nests_too_deep_or_holds_itself_is_cut():
    """A value that refers to itself, or has very many levels, ends in the name of a type."""
    round_about: list[Any] = []
    round_about.append(round_about)
    for value in (round_about, nested(100_000)):
        assert "<list>" in json.dumps(plain(value))


def test_a_result_made_by_hand():
    """`to_dict` of a result and a run with hostile parts never raises."""
    error = RunError("Odd", "\ud800", None, None, None, "secret traceback")
    result = RunResult("r", "wf", "failed", Odd(), {Odd()}, error, (), {"x": Odd()})
    told = through_json(result.to_dict())
    assert (told["state"], told["result"], told["metadata"]) == ("<Odd>", ["<Odd>"], {"x": "<Odd>"})
    assert "secret" not in json.dumps(told)
    info = RunInfo("r", "wf", "main", "failed", None, None, 1, (), 0.0, 0.0, None, (), error)
    assert through_json(info.to_dict())["error"]["message"] == "\\ud800"
