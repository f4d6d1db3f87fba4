"""Finding the waits an event is for: the index never disagrees with the wait itself."""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poundlock.codecs import dump, load, pack
from poundlock.model.buffers import (
    OVERFLOWS,
    Hit,
    Part,
    Tally,
    WaitRules,
    kept_tallies,
    read_tally,
    without_consumed,
)
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.counting import answering, any_form, surplus, tally_of
from poundlock.model.definitions import Wait
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, Verdict, answer_note
from poundlock.model.runs import Message, StoredEvent
from poundlock.model.waits import (
    Unanswerable,
    arm,
    armed_anew,
    event_keys,
    fate,
    hit_of,
    key_shape,
    wait_events,
)


class Word(enum.StrEnum):
    A = "a"


EQUALS = [
    (2, 2.0),
    (0.0, -0.0),
    (10**22, 1e22),
    ([1, {"a": 2.0}], [1.0, {"a": 2}]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ((1, (2,)), [1, [2]]),
    (Word.A, "a"),
    (Decimal("2.50"), Decimal("2.5")),
    (Decimal("2.50"), 2.5),
    (Decimal("2.0"), 2),
    (Decimal("1e300"), 10**300),
    (Decimal("-0.0"), 0.0),
    (Decimal(100), Decimal("1e2")),
    (Decimal("-0"), Decimal("0.00")),
    (Decimal("1." + "1" * 60 + "0"), Decimal("1." + "1" * 60)),
    (
        dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    ),
    (dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1)),  # noqa: DTZ001 - naive ones are data too
    (None, None),
    ("", ""),
    (b"a", b"a"),
]
UNEQUAL = [
    (1, True), (0, False), (0, None), ("1", 1), ("", None), ([1], [True]), ([], {}), ([1, 2], [2, 1]),
    ({"a": 1}, {"a": "1"}),
    (2**53, 2**53 + 1), (0.1, 0.2), ("a", "A"), (b"a", "a"), (Decimal("0.1"), 0.1), (Decimal(1), Decimal(-1)),
    (dt.date(2026, 1, 1), "2026-01-01"), (Decimal("1." + "1" * 60), Decimal("1." + "1" * 59 + "2")),
]  # fmt: skip

segments = st.sampled_from(["a", "b"])
types = st.lists(segments, min_size=1, max_size=3).map(".".join)
patterns = st.lists(segments | st.sampled_from(["*", "**"]), min_size=1, max_size=3).map(".".join)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 2.0, 0.5, 1e22, 10**22, "", "a", "1", "$type"])
    | st.sampled_from([Decimal("1.0"), Decimal(1), Decimal("-0"), dt.date(2026, 1, 1), b"a"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
paths = st.sampled_from(["x", "y", "x.a", "x.0", "x.a.b"])
payloads = st.dictionaries(st.sampled_from("xy"), values, max_size=2) | st.none() | scalars


def row(wait, state=None):
    armed = arm(wait, "w", state or {}, epoch=1)
    assert armed is not None
    return armed


def found(armed, event, *others):
    """Look an event up as a store does: by the shapes in use."""
    shapes = {key_shape(key) for one in (armed, *others) for key in one.keys}
    return bool(set(event_keys(shapes, event)) & set(armed.keys))


@given(
    st.lists(patterns | types, min_size=1, max_size=2),
    st.dictionaries(paths, values, max_size=2),
    types,
    payloads,
    st.dictionaries(paths, values, max_size=1),
)
def test_looking_up_and_matching_agree(events, correlate, event_type, payload, other):
    """Without further conditions an event is found under a wait's keys if and only if the wait matches it."""
    armed = row(Wait(events, correlate=correlate))
    event = Event(event_type, payload)
    assert found(armed, event, row(Wait("*", correlate=other))) is armed.matches(event)


@given(st.dictionaries(paths, values, min_size=1, max_size=2), types)
def test_an_event_made_for_a_wait_is_found(correlate, event_type):
    """An event whose payload holds what a wait correlates is found, whatever kind of values they are."""
    armed = row(Wait("**", correlate=correlate))
    event = Event(event_type, dict(correlate))  # a key with dots in it stands for the path
    assert armed.matches(event)
    assert found(armed, event)


@given(st.dictionaries(paths, values, min_size=1, max_size=2), types, payloads)
def test_the_index_means_the_same_once_stored(correlate, event_type, payload):
    """Keys are equal whether values come as given or as read back from a store."""
    stored = {path: pack(value)[0] for path, value in correlate.items()}
    assert row(Wait("*", correlate=correlate)).keys == row(Wait("*", correlate=stored)).keys
    keys = [key_shape(key) for key in row(Wait("*", correlate=correlate)).keys]
    assert event_keys(keys, Event(event_type, payload)) == event_keys(keys, Event(event_type, pack(payload)[0]))


@pytest.mark.parametrize(("one", "other"), EQUALS, ids=repr)
def test_equal_values_are_one_key(one, other):
    """What a condition holds for equal is found, in both directions."""
    for first, second in ((one, other), (other, one)):
        armed, event = row(Wait("t", correlate={"x": first})), Event("t", {"x": second})
        assert armed.matches(event)
        assert found(armed, event)


@pytest.mark.parametrize(("one", "other"), UNEQUAL, ids=repr)
def test_unequal_values_are_two_keys(one, other):
    """What a condition tells apart is not found, in both directions."""
    for first, second in ((one, other), (other, one)):
        armed, event = row(Wait("t", correlate={"x": first})), Event("t", {"x": second})
        assert not armed.matches(event)
        assert not found(armed, event)


def test_a_missing_field_is_not_null():
    """A wait for null is found by null, not by an event without the field."""
    armed = row(Wait("t", correlate={"x": None}))
    assert found(armed, Event("t", {"x": None}))
    assert not found(armed, Event("t", {}))
    assert not found(armed, Event("t"))


def test_one_key_per_event_type_and_one_shape_per_definition():
    """Waits of one definition share their shapes whatever they wait for, so an event is looked up a few times only."""
    wait = Wait(["a", "b.*"], correlate={"x": StateRef("id"), "y": 1})
    rows = [row(wait, {"id": number}) for number in range(100)]
    assert {len(one.keys) for one in rows} == {2}
    shapes = {key_shape(key) for one in rows for key in one.keys}
    assert len(shapes) == 2
    assert len({key for one in rows for key in one.keys}) == 200
    event = Event("b.c", {"x": 7, "y": 1})
    (key,) = event_keys(shapes, event)
    assert [one.correlate[0][1] for one in rows if key in one.keys] == [7]


def test_values_cannot_forge_a_key():
    """Separators inside of values are data."""
    forged = row(Wait("t", correlate={"x": '\x1f\x1f["a"]', "y": "b"}))
    assert not found(forged, Event("t", {"x": "a", "y": "b"}))
    assert found(forged, Event("t", {"x": '\x1f\x1f["a"]', "y": "b"}))


# -- arming
def test_arming_resolves_every_reference():
    """Conditions and correlations take the state's values; what else the wait says is carried along."""
    wait = Wait(
        ["order.approved", "order.*"],
        where=[Condition("by", "!=", StateRef("author"))],
        correlate={"order.id": StateRef("order.id"), "kind": "full"},
        on_timeout="abort",
        patch={"approved": True},
    )
    armed = arm(wait, "gate", {"author": "ann", "order": {"id": 7}}, epoch=3, resume_at="next")
    assert armed is not None
    assert armed.where == (Condition("by", "!=", "ann"),)
    assert armed.correlate == (("kind", "full"), ("order.id", 7))
    assert (armed.wait_id, armed.epoch, armed.parked, armed.resume_at) == ("gate", 3, False, "next")
    assert (armed.on_timeout, armed.patch, armed.expires_at) == ("abort", {"approved": True}, None)
    assert armed.matches(Event("order.approved", {"by": "bob", "kind": "full", "order": {"id": 7}}))
    assert not armed.matches(Event("order.approved", {"by": "ann", "kind": "full", "order": {"id": 7}}))
    assert not armed.matches(Event("invoice.approved", {"by": "bob", "kind": "full", "order": {"id": 7}}))


@pytest.mark.parametrize(
    "wait",
    [Wait("t", where=[Condition("a", "==", StateRef("nowhere"))]), Wait("t", correlate={"a": StateRef("nowhere")})],
    ids=["where", "correlate"],
)
def test_a_wait_is_not_armed_while_a_reference_has_no_value(wait):
    """As long as the state lacks a value nothing is armed; None is a value."""
    assert arm(wait, "w", {}, epoch=1) is None
    assert arm(wait, "w", {"nowhere": None}, epoch=1) is not None


def test_an_armed_wait_is_not_parked_and_has_no_deadline():
    """Arming only makes events be buffered: the timeout starts when a run parks there."""
    buffering = arm(Wait("t", timeout="1h"), "w", {}, epoch=1)
    assert buffering is not None
    assert (buffering.parked, buffering.expires_at) == (False, None)


def test_a_function_as_patch_stays_in_the_definition():
    """A row is data: of a function it keeps only that there is one."""
    assert row(Wait("t", patch=lambda event: {})).patch == "call"


def test_a_row_is_data():
    """A row can be stored and read back as it was."""
    armed = row(Wait(["a", "b"], correlate={"x": 1}, patch={"y": [1]}, timeout=5))
    stored = [list(field) if isinstance(field, tuple) else field for field in armed]
    stored[stored.index([("x", 1)])] = [["x", 1]]
    assert load(dump(list(armed))) == stored


def test_events_of_a_wait():
    """One type or several, a wait always has a tuple of them."""
    assert wait_events(Wait("a")) == ("a",)
    assert wait_events(Wait(["a", "b"])) == ("a", "b")


DELIVERY = Delivery("r", (Hit("gate", 3), Hit("side", 1)), "e", "w", ReceiptLine(Verdict.BUFFERED))


def waits_of(*told, rules=None, tally=None):
    """Return rows from (wait id, epoch, parked)."""
    row = arm(Wait("e"), "w", {}, epoch=0)
    return [
        row._replace(wait_id=name, epoch=epoch, parked=parked, rules=rules, tally=tally) for name, epoch, parked in told
    ]


def fate_at(waits, status=RunStatus.PAUSED, delivery=DELIVERY, now=10.0, seq=7, **options):
    return fate(delivery, status, waits, now=now, seq=seq, **options)


@pytest.mark.parametrize("status", [*RunStatus, None], ids=str)
@pytest.mark.parametrize(
    ("armed", "parked_at_it"),
    [
        ([("gate", 3, True)], True),
        ([("gate", 3, 1), ("side", 1, 0)], True),  # as a database says it
        ([("gate", 3, False)], False),
        ([("other", 9, True), ("side", 1, False)], False),
    ],
    ids=str,
)
def test_what_a_delivery_comes_to(status, armed, parked_at_it):
    """Resumed is who is paused at one of the waits the event is for; every other run that lives has it buffered."""
    if status is None or status.terminal:
        expected = Fate.GONE
    else:
        expected = Fate.RESUMED if status is RunStatus.PAUSED and parked_at_it else Fate.BUFFERED
    assert fate_at(waits_of(*armed), status).fate is expected


@pytest.mark.parametrize("status", RunStatus)
def test_a_delivery_to_waits_that_are_gone_comes_to_nothing(status):
    """No wait of that id, or only one of another epoch: the event is for nobody there."""
    assert fate_at([], status).fate is Fate.GONE
    assert fate_at(waits_of(("gate", 4, True), ("other", 1, True)), status).fate is Fate.GONE


def test_armed_anew():
    """Another epoch of one of its waits makes the sender match again; a wait that is gone does not."""
    assert armed_anew(DELIVERY, waits_of(("gate", 4, False)))
    assert armed_anew(DELIVERY, waits_of(("gate", 3, False), ("side", 2, False)))
    assert not armed_anew(DELIVERY, waits_of(("gate", 3, True), ("other", 9, True)))
    assert not armed_anew(DELIVERY, [])


# ------------------------------------------------------------------------------------------- counting, on both sides
TYPES = ("a", "b", "c")


def rules_for(draw_mode, overflow, limit, ttl):
    distinct = "who" if isinstance(draw_mode, int) and draw_mode > 1 else None
    return WaitRules(draw_mode, distinct, None, None, limit, ttl, overflow)


@st.composite
def counted_waits(draw):
    mode = draw(st.sampled_from(["any", "all", 1, 2, 3]))
    limit = draw(st.integers(2 if mode == 2 else 3, 5))
    ttl = draw(st.sampled_from([None, 4.0]))
    return rules_for(mode, draw(st.sampled_from(OVERFLOWS)), limit, ttl)


COUNTED = (
    counted_waits(),
    st.booleans(),
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(["x", "y", "z", None]), st.integers(0, 3)), max_size=14),
)


@settings(max_examples=400)
@given(COUNTED[0], COUNTED[3])
def test_an_owner_counts_what_its_senders_counted(rules, sent):
    """A run with an owner: nothing leaves its inbox, and the owner counts among all what the senders have counted."""
    row = arm(Wait(list(TYPES)), "w", {}, epoch=1)._replace(rules=rules)
    inbox, now = [], 100.0
    for seq, (kind, who, later) in enumerate(sent, 1):
        now += later
        event = Event(kind, {} if who is None else {"who": who})
        hit = hit_of(row, event)
        if isinstance(hit, Unanswerable):
            continue
        delivery = Delivery("r", (hit,), "e", "w", ReceiptLine(Verdict.BUFFERED))
        decided = fate(delivery, RunStatus.RUNNING, [row], now=now, seq=seq)
        if decided.fate is not Fate.BUFFERED:
            continue
        assert not decided.dropped
        inbox.append(Message("r", seq, "event", now, None, StoredEvent("e", event)))
        row = row._replace(tally=decided.tallies["w"])
        assert row.tally.parts == tally_of(row, inbox, now, any_form).parts
        many, late = surplus([row], inbox, now, any_form)
        gone = {message.seq for message, _ in (*many, *late)}
        assert {message.seq for message in inbox} - gone == {part.seq for part in row.tally.parts}


@settings(max_examples=400)
@given(*COUNTED)
def test_the_store_and_the_owner_count_alike(rules, parked, later_ones, sent):
    """A run without an owner: after each delivery its tally is what its owner would count among the messages left."""
    row = arm(Wait(list(TYPES)), "w", {}, epoch=1)._replace(rules=rules, parked=parked)
    inbox, now = [], 100.0
    for seq, (kind, who, later) in enumerate(sent, 1):
        now += later
        event = Event(kind, {} if who is None else {"who": who})
        hit = hit_of(row, event)
        if isinstance(hit, Unanswerable):
            assert rules.distinct is not None
            assert who is None
            continue
        delivery = Delivery("r", (hit,), "e", "w", ReceiptLine(Verdict.BUFFERED))
        decided = fate(delivery, RunStatus.PAUSED, [row], now=now, seq=seq)
        message = Message("r", seq, "event", now, answer_note(decided.answers), StoredEvent("e", event))
        if decided.fate is Fate.RESUMED:
            assert parked
            assert decided.answers == ("w", 1)
            another = message._replace(body=None)
            came = [*inbox, message, *(another._replace(seq=seq + more) for more in range(1, later_ones + 1))]
            for when in (now, now + 99):  # however long it has to wait for its slot
                used = {each.seq for each in answering(row, came, when, any_form)}
                assert used
                many, late = surplus([row], came, when, any_form)
                assert used.isdisjoint(each.seq for each, _ in (*many, *late))
            return
        if decided.fate is Fate.BUFFERED:
            inbox = [each for each in [*inbox, message] if each.seq not in decided.dropped]
            row = row._replace(tally=decided.tallies["w"])
            assert row.tally.parts == tally_of(row, inbox, now, any_form).parts
            assert len(row.tally.parts) <= rules.limit
            assert {each.seq for each in inbox} == {part.seq for part in row.tally.parts}
        else:
            assert "w" in decided.reason
            assert not decided.tallies
            assert not decided.dropped
        if parked:
            assert not answering(row, inbox, now, any_form)


def test_what_a_wait_for_two_says():
    """Receipts say how far a wait for several is; the last one resumes, a value that was there before is refused."""
    rules = WaitRules(2, "member")
    [row] = waits_of(("votes", 1, True), rules=rules)
    first = Delivery("r", (Hit("votes", 1, '"a"', "member 'a' has answered"),), "e", "w", ReceiptLine(Verdict.BUFFERED))
    one = fate(first, RunStatus.PAUSED, [row], now=0.0, seq=1)
    assert (one.fate, one.reason) == (Fate.BUFFERED, "wait votes: 1 of 2")
    row = row._replace(tally=one.tallies["votes"])
    again = fate(first, RunStatus.PAUSED, [row], now=0.0, seq=2)
    assert (again.fate, again.reason) == (Fate.REJECTED, "wait votes: member 'a' has answered")
    second = Delivery(
        "r", (Hit("votes", 1, '"b"', "member 'b' has answered"),), "e", "w", ReceiptLine(Verdict.BUFFERED)
    )
    two = fate(second, RunStatus.PAUSED, [row], now=0.0, seq=2)
    assert (two.fate, two.reason) == (Fate.RESUMED, "wait votes: 2 of 2")


def test_what_completes_an_answer_is_in_the_way_of_nothing_later():
    """Until the run goes on, more votes count for the next question: they push out no part of the answer."""
    rules = WaitRules(2, "member", limit=2)
    [row] = waits_of(("votes", 1, True), rules=rules)
    status, said, gone = RunStatus.PAUSED, [], []
    for seq, member in enumerate("abacdd", 1):
        delivery = Delivery("r", (Hit("votes", 1, member, "it has answered"),), "e", "w", ReceiptLine(Verdict.BUFFERED))
        decided = fate(delivery, status, [row], now=0.0, seq=seq)
        status = RunStatus.READY if decided.fate is Fate.RESUMED else status
        row = row._replace(tally=decided.tallies.get("votes", row.tally))
        said.append(f"{decided.fate} {decided.reason.removeprefix('wait votes: ')}")
        gone += decided.dropped
    assert said == [
        "buffered 1 of 2",
        "resumed 2 of 2",
        "buffered 1 of 2",
        "buffered 2 of 2",
        "buffered 2 of 2, the oldest of 2 was dropped",
        "rejected it has answered",
    ]
    assert (gone, row.tally.answer, [part.seq for part in row.tally.parts]) == ([3], (1, 2), [1, 2, 4, 5])
    assert row.tally.without((2,)) == Tally((row.tally.parts[0], *row.tally.parts[2:]), dropped=1)  # it was refused
    assert read_tally(load(dump(row.tally.to_data()))) == row.tally


def test_an_event_for_two_waits_stays_while_one_has_room():
    """One wait drops its oldest event: it leaves the inbox only if no other wait of the run counts it."""
    small, large = WaitRules(limit=1), WaitRules(limit=2)
    [one] = waits_of(("gate", 3, False), rules=small, tally=Tally((Part(1),)))
    [two] = waits_of(("side", 1, False), rules=large, tally=Tally((Part(1),)))
    decided = fate_at([one, two], seq=2)
    assert decided.dropped == ()
    assert decided.tallies["gate"] == Tally((Part(2),), dropped=1)
    assert decided.tallies["side"] == Tally((Part(1), Part(2)))
    later = fate_at([one._replace(tally=decided.tallies["gate"]), two._replace(tally=decided.tallies["side"])], seq=3)
    assert later.dropped == (1,)
    assert later.reason == "wait gate, the oldest of 1 was dropped; wait side, the oldest of 2 was dropped"


def test_an_owner_drops_for_itself():
    """While a run has an owner the transaction drops nothing: the owner may be using what it would drop."""
    [row] = waits_of(("gate", 3, False), rules=WaitRules(limit=1), tally=Tally((Part(1),)))
    decided = fate_at([row], RunStatus.RUNNING, seq=2)
    assert (decided.dropped, decided.tallies["gate"]) == ((), Tally((Part(2),)))


def test_tallies_survive_what_their_owner_does_not_know():
    """What came since the owner looked still counts; what it consumed does not; a wait armed anew brings its own."""
    [before] = waits_of(("gate", 3, False), tally=Tally((Part(1), Part(2)), dropped=2))
    [same] = kept_tallies([before], [before._replace(tally=None)], (1,))
    assert same.tally == Tally((Part(2),))
    [anew] = kept_tallies([before], [before._replace(epoch=9, tally=Tally((Part(2),)))], (1,))
    assert anew.tally == Tally((Part(2),))
    [late] = kept_tallies([before._replace(tally=None)], [before._replace(tally=Tally((Part(1),)))], ())
    assert late.tally is None
    rows = [before._replace(tally=None)]
    assert kept_tallies(rows, rows, ()) is rows
    assert without_consumed(rows, (1,)) is rows
    [left] = without_consumed([before._replace(tally=Tally((Part(1),)))], (1,))
    assert left.tally is None


@given(
    st.lists(st.builds(Part, st.integers(1, 99), st.floats(0, 9), st.none() | st.text(max_size=3)), max_size=5),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_a_tally_is_read_as_it_was_written(parts, dropped, expired):
    """Through JSON and back."""
    tally = Tally(tuple(parts), dropped, expired)
    assert read_tally(load(dump(tally.to_data()))) == tally


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_the_last_of_all_types_needs_no_room(overflow):
    """A buffer full of one type: the missing type completes the answer, and the owner drops no part of it."""
    rules = WaitRules("all", limit=3, overflow=overflow)
    row = arm(Wait(["a", "b", "c"]), "w", {}, epoch=1)._replace(rules=rules, parked=True)
    messages = [
        Message("r", seq, "event", 0.0, answer_note(("w", 1) if kind == "c" else None), StoredEvent("e", Event(kind)))
        for seq, kind in enumerate("baacaaaa", 1)
    ]
    used = {message.seq for message in answering(row, messages, 0.0, any_form)}
    assert used == {1, 2, 4}
    over, _ = surplus([row], messages, 0.0, any_form)
    assert used.isdisjoint(message.seq for message, _ in over)
