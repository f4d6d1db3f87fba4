"""The reactive state of one run, and the registry."""

from __future__ import annotations

import copy
import json
import logging
import operator
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field, field_validator

from poundlock.errors import ArtifactInvalid, DuplicateKey, NotStorable, StateInvalid
from poundlock.state import DELETE, Overwrite, StateRegistry, StateStore, plain


@pytest.fixture
def store():
    return StateStore({"user": {"id": 1, "tags": ["a", "b"]}, "n": None})


# ------------------------------------------------------------------------------------------------------ reading
def test_nobody_can_change_state_behind_its_back(store):
    """What reads give cannot be changed, or is a copy; what was given in is copied too."""
    mine = {"list": [1]}
    store.patch(mine)
    mine["list"].append(2)
    state = store.get()
    with pytest.raises(TypeError):
        state["user"] = 1
    with pytest.raises(TypeError):
        state["user"]["id"] = 2
    with pytest.raises(AttributeError):
        state["user"]["tags"].append("c")
    plain(state)["user"]["tags"].append("c")
    copy.deepcopy(state)["user"]["tags"].append("c")
    assert store.get() == {"user": {"id": 1, "tags": ["a", "b"]}, "n": None, "list": [1]}


def test_a_view_stays_what_it_was(store):
    """A state that was read does not change with later commits."""
    before = store.get()
    store.patch({"user": {"id": 2}})
    assert before["user"]["id"] == 1
    assert store.get()["user"]["id"] == 2


def test_views_behave_like_what_they_show(store):
    """Views compare, iterate, count, concatenate and print like dictionaries and lists; `plain` makes them such."""
    state = store.get()
    tags = state["user"]["tags"]
    assert state == {"user": {"id": 1, "tags": ["a", "b"]}, "n": None}
    assert state == store.get()
    assert list(state) == ["user", "n"]
    assert "user" in state
    assert len(state) == len(tags) == 2
    assert (tags[0], list(tags), tags[1:]) == ("a", ["a", "b"], ["b"])
    assert operator.add(tags, ["c"]) == ["a", "b", "c"]
    assert operator.add(["c"], tags) == ["c", "a", "b"]
    assert repr(state) == repr({"user": {"id": 1, "tags": ["a", "b"]}, "n": None})
    assert json.loads(json.dumps(plain({"all": [state, tags]}))) == {"all": [state, tags]}
    assert copy.copy(tags) == ["a", "b"]
    match state:
        case {"user": {"tags": [first, *_]}}:
            assert first == "a"
        case _:
            pytest.fail("a view matches as a mapping")


@pytest.mark.parametrize(
    ("selector", "value"),
    [("user.id", 1), ("user.tags.1", "b"), ("user.nope", None), ("n", None), ("user", {"id": 1, "tags": ["a", "b"]})],
    ids=str,
)
def test_select_by_path(store, selector, value):
    """A dotted path gives what stands there, None where it leads nowhere; the empty path is everything."""
    assert store.select(selector) == value
    assert store.select("") == store.get()


class Profile(BaseModel):
    city: str = "Paris"
    zip: str = ""


class Account(BaseModel):
    name: str = "Ada"
    age: int = 30
    profile: Profile = Field(default_factory=Profile)
    tags: list[str] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def strip(cls, value):
        return value.strip()

    @property
    def initial(self):
        return self.name[0]


SELECTORS = {
    "leaf by attribute": (lambda s: s.user.id, 1, ("user.id",)),
    "leaf by key": (lambda s: s["user"]["id"], 1, ("user.id",)),
    "two leaves": (lambda s: (s.user.id, s.n), (1, None), ("user.id", "n")),
    "mapping given away": (lambda s: s.user, {"id": 1, "tags": ["a", "b"]}, ("user",)),
    "inside a container": (lambda s: {"x": [s.user]}, {"x": [{"id": 1, "tags": ["a", "b"]}]}, ("user",)),
    "counted": (lambda s: len(s.user), 2, ("user",)),
    "iterated": (lambda s: sorted(s.user), ["id", "tags"], ("user",)),
    "list item": (lambda s: s.user.tags[0], "a", ("user.tags",)),
    "list counted": (lambda s: len(s.user.tags), 2, ("user.tags",)),
    "list searched": (lambda s: "a" in s.user.tags, True, ("user.tags",)),
    "compared": (lambda s: s.user == {"id": 1}, False, ("user",)),
    "asked for": (lambda s: "nope" in s.user, False, ("user.nope",)),
    "missing with default": (lambda s: s.get("nope", 7), 7, ("nope",)),
    "missing below": (lambda s: s.user.get("nope"), None, ("user.nope",)),
    "everything": (lambda s: s, {"user": {"id": 1, "tags": ["a", "b"]}, "n": None}, ("",)),
    "nothing": (lambda s: 7, 7, ()),
    "printed": (lambda s: str(s.user)[0], "{", ("user",)),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_a_function_s_reads_are_recorded(store, name):
    """Exactly what the outcome can depend on is recorded, and the value comes without stand-ins."""
    selector, value, paths = SELECTORS[name]
    assert store.trace(selector) == (value, paths)
    assert store.select(selector) == value


def test_what_a_function_gives_cannot_change_the_state(store):
    """A traced mapping comes out read-only like any other read."""
    with pytest.raises(TypeError):
        store.select(lambda s: s.user)["id"] = 2


def test_a_missing_attribute_says_which(store):
    """A function that reads what is not there gets an error that names the path."""
    with pytest.raises(AttributeError, match=r"no 'user\.nope'"):
        store.select(lambda s: s.user.nope)
    with pytest.raises(KeyError):
        store.select(lambda s: s["user"]["nope"])


def test_functions_of_a_model_are_recorded():
    """Fields of nested models are followed; a property or method may have read anything of its model."""
    store = StateStore(Account())
    assert store.trace(lambda s: s.profile.city) == ("Paris", ("profile.city",))
    assert store.trace(lambda s: s.initial) == ("A", ("",))
    assert store.trace(lambda s: s.profile) == (Profile(), ("profile",))


# ------------------------------------------------------------------------------------------------------ writing
def test_patches_merge(store):
    """Mappings merge, lists and scalars replace, DELETE removes, None is a value."""
    store.patch({"user": {"tags": [], "name": "Ada", "id": DELETE}, "n": None, "gone": DELETE, "m": {}})
    assert store.get() == {"user": {"tags": [], "name": "Ada"}, "n": None, "m": {}}
    assert store.version == 1


def test_a_transaction_is_one_commit(store):
    """Patches of a transaction are seen together at its end, as one version; inside, only the transaction sees them."""
    heard = []
    store.subscribe("", heard.append)
    with store.transaction() as tx:
        tx.patch({"a": 1})
        tx.patch({"b": tx.select("a")})
        assert (tx.get()["b"], tx.select("user.id")) == (1, 1)
        assert "a" not in store.get()
    assert (store.get()["a"], store.get()["b"], store.version) == (1, 1, 1)
    assert [(commit.version, commit.paths) for commit in heard] == [(1, ("a", "b"))]


def test_a_failing_transaction_changes_nothing(store):
    """If the block raises, or its result does not fit, state and version stay as they were."""
    typed = StateStore(Account())
    with pytest.raises(OSError, match="no"):
        _patch_and_raise(store)
    with pytest.raises(StateInvalid):
        _in_transaction(typed, {"name": "B"}, {"age": "old"})
    assert (store.version, typed.version, typed.get()) == (0, 0, Account())
    with store.transaction():
        pass
    assert store.version == 0


def test_a_transaction_merges_into_what_is_then(store):
    """A commit during the block is kept; the transaction's patches come on top."""
    with store.transaction() as tx:
        tx.patch({"user": {"id": 2}})
        store.patch({"user": {"name": "Grace"}})
    assert store.select("user") == {"id": 2, "name": "Grace", "tags": ["a", "b"]}


def test_adopted_state_is_taken_as_it_is(store):
    """`adopt` takes a finished state over and tells only those whose paths the patch wrote; without a patch, all."""
    heard = []
    store.subscribe("user.id", lambda commit: heard.append("id"))
    store.subscribe("n", lambda commit: heard.append("n"))
    state = {"user": {"id": 5}, "n": 1}
    store.adopt(state, {"user": {"id": 5}})
    assert (store.get(), store.version, heard) == (state, 1, ["id"])
    store.adopt({"n": 2})
    assert (store.version, heard) == (2, ["id", "id", "n"])


@pytest.mark.parametrize(
    ("patch", "path"),
    [({"a": {"b": object()}}, "a.b"), ({"a": float("nan")}, "a"), ({"a": {1: 2}}, "a.1")],
    ids=["object", "nan", "key"],
)
def test_what_is_no_data_is_refused(store, patch, path):
    """A value that cannot be stored is refused with its path, in a patch and in a transaction; nothing changes."""
    for write in (store.patch, lambda patch: _in_transaction(store, patch)):
        with pytest.raises(NotStorable) as caught:
            write(patch)
        assert caught.value.path == path
    assert store.version == 0


def _in_transaction(store, *patches):
    with store.transaction() as tx:
        for patch in patches:
            tx.patch(patch)


def _patch_and_raise(store):
    with store.transaction() as tx:
        tx.patch({"a": 1})
        raise OSError("no")


@pytest.mark.parametrize("patch", [None, [], "x", 7], ids=str)
def test_a_patch_is_a_mapping(store, patch):
    """Anything else as a patch is a typed error."""
    with pytest.raises(StateInvalid, match="a patch is a mapping"):
        store.patch(patch)


def test_a_state_is_a_mapping():
    """A store cannot hold a bare list or number."""
    with pytest.raises(StateInvalid, match="a state is a mapping"):
        StateStore([1])


# ------------------------------------------------------------------------------------------------------- models
def test_a_typed_state_is_validated_on_every_commit():
    """A bad patch raises StateInvalid with the field's path and changes nothing; a good one is converted."""
    store = StateStore(Account())
    store.patch({"age": "31", "name": " Grace "})
    assert store.get() == Account(name="Grace", age=31)
    with pytest.raises(StateInvalid) as caught:
        store.patch({"profile": {"city": 5}, "age": "x"})
    assert caught.value.path == "age"
    assert [path for path, _ in caught.value.fields["faults"]] == ["age", "profile.city"]
    assert (store.version, store.get().age) == (1, 31)


def test_typed_reads_are_detached():
    """Each read of a typed state is an instance of the reader's own."""
    store = StateStore({"name": "Ada"}, model=Account)
    store.get().tags.append("x")
    store.select(lambda s: s.tags)
    assert store.get().tags == []
    assert store.model is Account


def test_dataclasses_are_models_too():
    """Any type that pydantic can validate will do."""

    @dataclass
    class Point:
        x: int
        y: int = 0

    store = StateStore({"x": "1"}, model=Point)
    assert store.get() == Point(1, 0)
    store.patch({"y": 5})
    assert store.select("y") == 5


def test_what_a_validator_changes_is_told():
    """Subscribers hear of fields that validation has changed beside what was patched."""

    class Total(BaseModel):
        items: list[int] = Field(default_factory=list)
        total: int = 0

        def model_post_init(self, context):
            self.total = sum(self.items)

    store = StateStore(Total())
    heard = []
    store.subscribe("total", heard.append)
    store.patch({"items": [1, 2]})
    assert store.select("total") == 3
    assert len(heard) == 1


class Aliased(BaseModel):
    order_id: int = Field(0, alias="orderId")
    calls: dict[str, int] = {}


def test_models_are_written_by_one_rule():
    """Names and aliases are one key, Overwrite replaces, and a key the model lacks is refused with near matches."""
    store = StateStore({"order_id": 1}, model=Aliased)
    with store.transaction() as tx:
        tx.patch({"order_id": 2, "calls": {"a": 1}})
        tx.patch({"orderId": 3})
    assert (store.get().order_id, store.select("orderId")) == (3, 3)
    store.patch({"calls": Overwrite({})})
    assert store.get() == Aliased(orderId=3)
    with pytest.raises(StateInvalid, match="did you mean 'calls'"):
        store.patch({"call": {}})
    with pytest.raises(NotStorable):
        store.patch({"calls": [DELETE]})
    assert store.get() == Aliased(orderId=3)


# --------------------------------------------------------------------------------------------------- subscribing
@pytest.mark.parametrize(
    ("paths", "patch", "told"),
    [
        ("user.id", {"user": {"id": 2}}, True),
        ("user.id", {"user": {"name": "x"}}, False),
        ("user", {"user": {"id": 2}}, True),
        ("user.id", {"user": DELETE}, True),
        ("user.id", {"userid": 2}, False),
        (("x", "user.id"), {"user": {"id": 2}}, True),
        ("", {"anything": 1}, True),
        ((), {"user": {"id": 2}}, False),
    ],
    ids=str,
)
def test_subscribers_hear_of_what_touches_their_paths(store, paths, patch, told):
    """One path touches another if one is a prefix of the other; nobody hears of anything else."""
    heard = []
    store.subscribe(paths, heard.append)
    store.patch(patch)
    assert bool(heard) is told


def test_unsubscribing_is_idempotent_and_immediate(store):
    """After the subscription has ended nothing is heard, also within the commit that is being told."""
    heard = []
    ends = []
    store.subscribe("n", lambda commit: [end() for end in ends])
    ends.append(store.subscribe("n", heard.append))
    store.patch({"n": 1})
    store.patch({"n": 2})
    assert heard == []
    assert store.subscribers == 1


def test_a_subscriber_that_commits_is_heard_in_order(store):
    """A commit made by a subscriber is told after all have been told of the first, so all see one order."""
    heard = []

    def commits(commit):
        if commit.version == 1:
            store.patch({"n": 2})

    store.subscribe("n", commits)
    store.subscribe("n", lambda commit: heard.append(commit.version))
    store.patch({"n": 1})
    assert heard == [1, 2]


def test_a_subscriber_that_raises_harms_nobody(store, caplog):
    """A failing subscriber is logged; the commit stands and the others hear of it."""
    heard = []
    store.subscribe("n", lambda commit: 1 / 0)
    store.subscribe("n", heard.append)
    with caplog.at_level(logging.CRITICAL, "poundlock.state"):
        store.patch({"n": 1})
    assert len(heard) == 1
    assert store.select("n") == 1


# ----------------------------------------------------------------------------------------------------- registry
def test_the_registry_makes_stores():
    """Workflows get plain or typed stores by default, and what their own factory makes if they have one."""
    registry = StateRegistry()
    assert registry.make("orders", {"a": 1}).get() == {"a": 1}
    assert registry.make("orders", {"age": "5"}, Account).get().age == 5

    class Mine(StateStore):
        pass

    registry.register("orders", lambda initial, model: Mine(initial | {"mine": True}))
    assert isinstance(registry.make("orders", {"a": 1}), Mine)
    assert registry.has("orders")
    with pytest.raises(DuplicateKey):
        registry.register("orders", Mine)
    registry.unregister("orders")
    registry.unregister("orders")
    assert not isinstance(registry.make("orders", {}), Mine)
    assert isinstance(StateRegistry(lambda initial, model: Mine(initial)).make("x", {}), Mine)


def test_a_state_factory_must_give_a_store():
    """A factory that gives something else is told what is missing."""
    registry = StateRegistry()
    registry.register("orders", lambda initial, model: dict(initial))
    with pytest.raises(ArtifactInvalid, match="returned a dict, which lacks select, subscribe"):
        registry.make("orders", {})
