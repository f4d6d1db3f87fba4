"""Our `dataclass` and `NamedTuple` do what those of the standard library do, and compile little at import."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys
import types
import typing
from dataclasses import FrozenInstanceError, field, fields, replace
from typing import ClassVar, get_type_hints

import pytest

from poundlock import records

WAYS = {"standard": dataclasses.dataclass, "ours": records.dataclass}


@pytest.fixture(params=WAYS)
def dataclass(request):
    """Both decorators: what holds for one must hold for the other."""
    return WAYS[request.param]


def frozen_one(dataclass):
    @dataclass(frozen=True, slots=True)
    class One:
        """A value with each kind of field."""

        kind: ClassVar[str] = "one"
        a: int
        b: list[int] = field(default_factory=list, hash=False)
        c: str = field(default="c", kw_only=True)
        d: str = field(default="d", kw_only=True, compare=False, repr=False)
        e: int = field(default=5, init=False)
        f: tuple[int, ...] = field(default_factory=lambda: (1,), init=False)
        g: int = field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "g", self.a + self.e)

    return One


def test_arguments_and_defaults(dataclass):
    """Arguments by place and by name, defaults, fresh defaults of factories, and fields that are no argument."""
    one = frozen_one(dataclass)
    values = [one(1), one(2, [3]), one(2, c="x", d="y"), one(a=1, b=[])]
    assert [[getattr(each, name.name) for name in fields(one)] for each in values] == [
        [1, [], "c", "d", 5, (1,), 6],
        [2, [3], "c", "d", 5, (1,), 7],
        [2, [], "x", "y", 5, (1,), 7],
        [1, [], "c", "d", 5, (1,), 6],
    ]
    assert values[0].b is not values[2].b


@pytest.mark.parametrize("wrong", [{}, {"a": 1, "x": 2}, {"a": 1, "e": 2}])
def test_wrong_arguments(dataclass, wrong):
    """Missing and unknown arguments are refused, and so is a field that is none."""
    with pytest.raises(TypeError, match=r"__init__\(\)"):
        frozen_one(dataclass)(**wrong)
    with pytest.raises(TypeError, match=r"takes from 2 to 3 positional arguments but 4"):
        frozen_one(dataclass)(1, [], "c")


def test_signature(dataclass):
    """The signature tells what can be given, as before so after the first use."""
    one = frozen_one(dataclass)
    before = str(inspect.signature(one))
    one(1)
    told = str(inspect.signature(one))
    assert before == told
    assert told == "(a: 'int', b: 'list[int]' = <factory>, *, c: 'str' = 'c', d: 'str' = 'd') -> None"
    assert get_type_hints(one.__init__) == {"a": int, "b": list[int], "c": str, "d": str, "return": types.NoneType}
    assert one.__match_args__ == ("a", "b")


def test_equality_and_hash(dataclass):
    """Values are equal if class and compared fields are; what takes no part in the hash need not be hashable."""
    one = frozen_one(dataclass)
    assert one(1, d="x") == one(1, d="y")
    assert one(1) != one(2)
    assert one(1) != 1
    assert one.__eq__(one(1), 1) is NotImplemented
    assert hash(one(1, [1])) == hash(one(1, [2]))
    assert len({one(1), one(1), one(2)}) == 2


def test_no_hash_of_what_changes(dataclass):
    """What can change and is compared by its fields cannot be hashed; without comparing, it is itself."""

    @dataclass(slots=True)
    class Compared:
        """Changes."""

        a: int

    @dataclass(slots=True, eq=False)
    class Itself:
        """Changes."""

        a: int

    assert Compared(1) == Compared(1)
    assert Compared.__hash__ is None
    assert Itself(1) != Itself(1)
    assert len({Itself(1), Itself(1)}) == 2
    changed = Compared(1)
    changed.a = 2
    assert changed == Compared(2)


def test_frozen(dataclass):
    """Nothing of a frozen value can be set or deleted."""
    one = frozen_one(dataclass)
    value = one(1)
    for change in (lambda: setattr(value, "a", 2), lambda: delattr(value, "a")):
        with pytest.raises(FrozenInstanceError, match=r"^cannot (assign to|delete) field 'a'$"):
            change()


def test_a_frozen_value_takes_no_new_attribute():
    """A name that is no field is refused like one, also with slots, where the standard library's check trips."""
    with pytest.raises(FrozenInstanceError, match=r"^cannot assign to field 'new'$"):
        frozen_one(records.dataclass)(1).new = 2


def test_repr(dataclass):
    """The text names class and fields, and stops where a value is within itself."""
    one = frozen_one(dataclass)
    within = [1]
    value = one(1, within)
    within.append(value)
    assert repr(value).endswith("One(a=1, b=[1, ...], c='c', e=5, f=(1,), g=6)")


def test_own_methods_stay(dataclass):
    """What a class writes itself is not replaced."""

    @dataclass(frozen=True, slots=True)
    class Own:
        """Says it all itself."""

        a: int

        def __init__(self):
            object.__setattr__(self, "a", 7)

        def __repr__(self):
            return "own"

        def __eq__(self, other):
            return True

        def __hash__(self):
            return 7

    assert (Own().a, repr(Own()), Own() == 1, hash(Own())) == (7, "own", True, 7)


def test_inheritance(dataclass):
    """A subclass adds fields behind those of its base; frozen and not frozen do not mix."""

    @dataclass(slots=True)
    class Base:
        """Base."""

        a: int

    @dataclass(slots=True)
    class Sub(Base):
        """Sub."""

        b: int = 2

    assert (Sub(1).a, Sub(1).b, Sub(1) == Base(1)) == (1, 2, False)
    with pytest.raises(TypeError, match="non-frozen"):
        dataclasses.dataclass(frozen=True)(type("Frozen", (Base,), {"__doc__": "x"}))
    with pytest.raises(TypeError, match="frozen"):
        dataclasses.dataclass(type("Thawed", (frozen_one(dataclass),), {"__doc__": "x"}))


@records.dataclass(frozen=True, slots=True)
class Kept:
    """A value that pickle finds by its name."""

    a: int
    b: list[int]


def test_copies():
    """Values can be copied, pickled and replaced."""
    kept = Kept(1, [2])
    assert copy.copy(kept) == copy.deepcopy(kept) == pickle.loads(pickle.dumps(kept)) == replace(kept, a=1) == kept
    assert copy.deepcopy(kept).b is not kept.b
    assert replace(kept, a=3).a == 3
    assert dataclasses.asdict(kept) == {"a": 1, "b": [2]}


def test_methods_are_compiled_at_first_use():
    """Making a class compiles nothing; a method that was used once is a function like any other."""
    one = frozen_one(records.dataclass)
    names = ("__init__", "__repr__", "__eq__", "__hash__")
    assert [name for name in names if isinstance(vars(one)[name], types.FunctionType)] == []
    one(1)
    assert [name for name in names if isinstance(vars(one)[name], types.FunctionType)] == ["__init__"]
    assert repr(one(1))
    assert one(1) == one(1)
    assert hash(one(1))
    assert [name for name in names if not isinstance(vars(one)[name], types.FunctionType)] == []


class Pair(records.NamedTuple):
    """Two values."""

    left: int
    right: list[Pair | int] | None = None

    @property
    def both(self):
        """Both of them."""
        return [self.left, self.right]

    def with_left(self, left):
        return self._replace(left=left)


class StandardPair(typing.NamedTuple):
    """Two values."""

    left: int
    right: list[StandardPair | int] | None = None

    @property
    def both(self):
        """Both of them."""
        return [self.left, self.right]

    def with_left(self, left):
        return self._replace(left=left)


@pytest.mark.parametrize("pair", [StandardPair, Pair])
def test_named_tuples(pair):
    """A named tuple has its fields, defaults, methods, texts and hints, and can be copied and pickled."""
    value = pair(1, [2])
    assert value == (1, [2])
    assert (pair(right=[], left=3), pair(4).right) == ((3, []), None)
    assert (value.both, value.with_left(5)) == ([1, [2]], (5, [2]))
    assert repr(value) == f"{pair.__name__}(left=1, right=[2])"
    assert pair._fields == pair.__match_args__ == ("left", "right")
    assert pair._field_defaults == {"right": None}
    assert (pair.__doc__, pair.both.__doc__, pair.__module__) == ("Two values.", "Both of them.", __name__)
    assert get_type_hints(pair) == {"left": int, "right": list[pair | int] | None}
    assert str(inspect.signature(pair)).startswith("(left")
    assert isinstance(pickle.loads(pickle.dumps(value)), pair)
    assert copy.deepcopy(value) == value
    with pytest.raises(AttributeError):
        value.left = 2
    with pytest.raises(AttributeError):
        value.new = 2
    with pytest.raises(TypeError):
        pair()


def test_methods_do_without_their_module(dataclass, monkeypatch):
    """What a module made still works when the module has been forgotten, as by a test that imports it afresh."""
    module = types.ModuleType("forgotten")
    monkeypatch.setitem(sys.modules, "forgotten", module)
    module.dataclass = dataclass
    exec("@dataclass(slots=True)\nclass One:\n    a: int = 1", vars(module))
    monkeypatch.delitem(sys.modules, "forgotten")
    assert repr(module.One(2)) == "One(a=2)"
