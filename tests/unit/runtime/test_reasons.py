"""A filtered line says which condition did not hold, and what it saw; briefly, whatever that was."""

from __future__ import annotations

from decimal import Decimal

import pytest

from poundlock import Condition, Serialized, Verdict, Workflow
from poundlock.runtime.dispatch import unmet


class Unshowable:
    def __repr__(self):
        raise SystemExit("no")

    def __eq__(self, other):
        return isinstance(other, Unshowable)

    __hash__ = None


def named(id, *conditions, **options):
    wf = Workflow(id, **options)

    @wf.on("order.placed", when=list(conditions))
    @wf.step
    async def work():
        return None

    return wf


@pytest.mark.parametrize(
    ("condition", "payload", "said"),
    [
        (Condition("total", ">", 100), {"total": 40}, "total > 100 does not hold: it is 40"),
        (Condition("total", ">", 100), {"totl": 40}, "total > 100 does not hold: the payload has no 'total'"),
        (Condition("by", "exists"), {}, "by exists does not hold: the payload has no 'by'"),
        (Condition("by", "exists", False), {"by": "x"}, "by exists is False does not hold: it is 'x'"),
        (Condition("a.b", "==", Decimal("1.5")), {"a": {"b": 2}}, "a.b == Decimal('1.5') does not hold: it is 2"),
        (Condition("a", "==", [1]), {"a": {"b": 2}}, "a == a list of 1 does not hold: it is a mapping of 1 keys"),
        (Condition("a", "==", 1), "text", "a == 1 does not hold: the payload has no 'a'"),
    ],
)
async def test_the_reason_names_the_condition(stores, condition, payload, said):
    """Of a trigger: the first condition that does not hold, its operator and value, and what stands there."""
    rt = await stores.enter(named("w", Condition("x", "exists", False), condition))
    [line] = (await rt.emit("order.placed", payload)).lines
    assert (line.verdict, line.reason) == (Verdict.FILTERED, said)


async def test_a_waits_reason_names_wait_and_condition(stores):
    """Of a waiting run: the wait as well."""
    wf = Workflow("w")
    wf.wait("review", on="reviewed", where=[Condition("by", "exists"), Condition("score", ">=", 3)])
    rt = await stores.enter(wf)
    run = await rt.run("w")
    [line] = (await rt.emit("reviewed", by="Ada", score=1)).lines
    assert (line.verdict, line.run_id) == (Verdict.FILTERED, run.run_id)
    assert line.reason == "wait review: score >= 3 does not hold: it is 1"


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**4000, b"x" * 10**6, list(range(10**5)), {str(n): n for n in range(10**5)}, Unshowable()],
    ids=["text", "integer", "bytes", "list", "mapping", "unshowable"],
)
def test_reasons_are_short_whatever_they_show(value):
    """A value of any size or kind is shown in a few characters, and what cannot be shown is said to be so."""
    for said in (
        unmet([Condition("a" * 500, "==", 1)], {"a" * 500: value}),
        unmet([Condition("a", "==", value)], {"a": 1}),
    ):
        assert said
        assert len(said) < 300


async def test_numbers_that_are_equal_are_one_key(stores):
    """2, 2.0 and Decimal("2.00") are equal to a condition, so they are one partition."""
    wf = named("w", mode=Serialized(key="n"))
    rt = await stores.enter(wf)
    keys = set()
    for value in (2, 2.0, Decimal("2.00"), Decimal(2)):
        receipt = await rt.emit("order.placed", n=value)
        keys.add((await rt.get_run(receipt.run_ids[0])).key)
        await receipt.results()
    assert keys == {"2"}


async def test_a_wait_correlated_by_a_decimal_takes_equal_numbers(stores):
    """The index finds what a condition holds for equal, and no more."""
    wf = Workflow("w")
    wf.wait("paid", on="paid", correlate={"sum": Decimal("2.50")})
    rt = await stores.enter(wf)
    run = await rt.run("w")
    assert (await rt.emit("paid", sum=2.25)).verdicts == ["unmatched"]
    assert (await rt.emit("paid", sum=2.5)).verdicts == ["resumed"]
    assert (await rt.wait(run.run_id)).ok
