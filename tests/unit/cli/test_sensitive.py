"""What the command line shows of runs with sensitive values: it does not know the app, and hides them all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

CANARY, DEEP, NUMBER = "sens-canary-7315", "sens-canary-8426", 73158426
APP = """
from pydantic import BaseModel
from poundlock import Sensitive, Terminate, Workflow

class Card(BaseModel):
    number: Sensitive[str]

class State(BaseModel):
    card: Sensitive[str]
    pin: Sensitive[int]
    cards: list[Card] = []
    way: str = ""

orders = Workflow("orders", state=State)

@orders.on("go")
@orders.step
async def pay(state, ctx):
    ctx.logger.info("paying with %s", state.card)
    ctx.progress(1, 2, f"with {state.card}")
    if state.way == "fails":
        raise ValueError(f"cannot pay with {state.card}, {state.pin} or {state.cards[0].number}")
    if state.way == "terminates":
        return Terminate({"card": state.card, "pin": state.pin})

orders.wait("approval", on="approved")
"""


@pytest.mark.parametrize("way", ["", "fails", "terminates"])
def test_no_command_shows_a_sensitive_value(call, tmp_path, feed, store, way):
    """Lists, pages, charts and JSON show "***", of paused, failed and completed runs; the file has the values."""
    app = tmp_path / "app.py"
    app.write_text(APP, encoding="utf-8")
    payload = {"card": CANARY, "pin": NUMBER, "cards": [{"number": DEEP}], "way": way}
    events = feed({"type": "go", "payload": payload}, {"type": "go", "payload": payload | {"pin": CANARY}})
    said = [call("run", app, "--events", events, "--store", store, "--receipts")]
    [run] = call("runs", "ls", "--store", store, "--json").json["runs"]
    run_id = run["run_id"]
    for more in ([], ["--json"]):
        said += [
            call("runs", "ls", "--store", store, *more),
            call("runs", "show", run_id, "--store", store, *more),
            call("timeline", "show", run_id, "--store", store, "--entries", *more),
            call("doctor", app, "--store", store, *more),
            call("check", app, "--store", store, *more),
        ]
    said.append(call("graph", app, "--run", run_id, "--store", store))
    said.append(call("timeline", run_id, "--store", store, "--at", "pay"))
    said.append(call("timeline", run_id, "--store", store, "--diff", "0", "3", "--json"))
    if way == "fails":
        said.append(call("fork", run_id, "--at", "pay", "--store", store))
        ids = [each["run_id"] for each in call("runs", "ls", "--store", store, "--json").json["runs"]]
        assert len(ids) == 2
        for each in ids:
            said += [call("timeline", each, "--store", store, "--json"), call("runs", "show", each, "--store", store)]
        said.append(call("runs", "compare", *ids, "--store", store, "--json"))
    if way != "":
        said.append(call("timeline", run_id, "--store", store, "--follow"))
        said.append(call("timeline", run_id, "--store", store, "--follow", "--json"))
    if way == "terminates":
        for more in ([], ["--json"]):
            said.append(call("rerun", run_id, "--from", "pay", "--app", app, "--store", store, *more))
    if way == "":
        said.append(call("resume", run_id, "--store", store, "--app", app, "--patch", f'{{"pin": "{CANARY}"}}'))
    shown = "".join(each.out + each.err for each in said)
    assert "***" in shown
    for canary in (CANARY, DEEP, str(NUMBER)):
        assert canary not in shown, [each for each in said if canary in each.out + each.err]
    path = Path(store.removeprefix("sqlite:///"))
    written = b"".join(each.read_bytes() for each in path.parent.iterdir() if each.name.startswith(path.name))
    assert CANARY.encode() in written
