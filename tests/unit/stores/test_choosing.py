"""What `store=` takes, what it means, and whose clock a store follows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poundlock import InvalidDefinition, StoreUnavailable, Workflow, WorkflowRuntime
from poundlock.stores import MemoryStore
from poundlock.stores import open as open_store
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import VirtualClock


class PathLike:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def waiting():
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("gate", on="go", timeout="3d", on_timeout="resume")

    @wf.step
    async def end():
        return {"ended": True}

    return wf


@pytest.mark.parametrize("made", [Path, str, PathLike], ids=lambda made: made.__name__)
async def test_a_path_is_a_sqlite_file(tmp_path, made):
    """A path-like object is the path of a SQLite file, like its URL."""
    path = tmp_path / "runs.db"
    store = f"sqlite:///{path}" if made is str else made(str(path))
    async with WorkflowRuntime(waiting(), store=store) as rt:
        assert isinstance(rt.store, SqliteStore)
        [run] = await (await rt.emit("begin")).results()
    async with WorkflowRuntime(waiting(), store=path) as rt:
        assert (await rt.get_run(run.run_id)).status == "paused"


@pytest.mark.parametrize("nothing", [None, "memory:", "memory://"])
def test_nothing_is_the_memory_store(nothing):
    """None and the memory URL keep everything in this process."""
    assert isinstance(WorkflowRuntime(store=nothing).store, MemoryStore)


@pytest.mark.parametrize("name", ["sqlite:///:memory:", "sqlite://", ":memory:", Path(":memory:")], ids=repr)
def test_a_sqlite_database_in_memory_is_the_memory_store(name):
    """What SQLite calls a database in memory is the memory store, and a warning says what that means."""
    with pytest.warns(UserWarning, match="data ends with this process"):
        store = WorkflowRuntime(store=name).store
    assert isinstance(store, MemoryStore)


async def test_a_sqlite_store_needs_a_file():
    """A SqliteStore cannot be in memory, and no file of that name is made."""
    with pytest.raises(StoreUnavailable, match="store=None"):
        await SqliteStore(":memory:").open("w1")
    assert ":memory:" not in os.listdir()  # noqa: PTH208 - a name, not a path


class Odd:
    def __repr__(self):
        raise ValueError("cannot be shown")


@pytest.mark.parametrize(
    "what",
    [5, b"runs.db", ["runs.db"], object(), Odd(), MemoryStore, True, PathLike(b"x")],
    ids=["number", "bytes", "list", "object", "odd", "class", "bool", "bytes path"],
)
def test_anything_else_is_refused(what):
    """Something that is not a store is refused by a typed error that names what is."""
    with pytest.raises(InvalidDefinition) as caught:
        WorkflowRuntime(store=what)
    assert caught.value.path == "store"
    assert all(word in caught.value.message for word in ("sqlite:///", "path", "None", "Store"))


@pytest.mark.parametrize("url", ["runs.db", "postgres://x/y", "sqlite:runs.db", ""])
def test_a_url_without_an_adapter_is_refused(url):
    """A text that is no URL of a store says what is; a plain path is taken as a path only."""
    with pytest.raises(StoreUnavailable) as caught:
        open_store(url)
    assert "pathlib.Path" in caught.value.message


@pytest.mark.parametrize(
    "what", ["sqlite:///runs.db?mode=ro", "sqlite:///file::memory:?cache=shared", "sqlite:///a\0b", Path("a\0b")]
)
def test_options_and_odd_paths_make_no_file(what):
    """Options of a URL are not taken for a part of the file's name, and no path is refused by an error from inside."""
    with pytest.raises(StoreUnavailable) as caught:
        open_store(what)
    assert caught.value.path == "store"


async def test_a_store_object_follows_the_runtimes_clock(tmp_path):
    """A SqliteStore that was given no clock follows its runtime's: time passes when its writer has nothing to do."""
    clock = VirtualClock()
    store = SqliteStore(tmp_path / "runs.db")
    async with WorkflowRuntime(waiting(), store=store, clock=clock) as rt:
        before = clock.now()
        receipt = await rt.emit("begin")
        result = await rt.wait(receipt.run_ids[0])
        assert (result.state["ended"], clock.now() - before) == (True, 3 * 86_400)
    assert store._clock is clock


async def test_the_next_runtime_on_it_brings_its_own_clock(tmp_path):
    """A store object that is used again follows the clock of who opens it, and of nobody while it is open."""
    first, second = VirtualClock(), VirtualClock()
    store = SqliteStore(tmp_path / "runs.db")
    async with WorkflowRuntime(store=store, clock=first):
        with pytest.raises(StoreUnavailable):
            await WorkflowRuntime(store=store, clock=second).__aenter__()
        assert store._clock is first
    async with WorkflowRuntime(store=store, clock=second):
        assert store._clock is second


async def test_a_store_with_its_own_clock_keeps_it(tmp_path):
    """A clock given to the store stays the store's."""
    own = VirtualClock()
    store = SqliteStore(tmp_path / "runs.db", clock=own)
    async with WorkflowRuntime(store=store, clock=VirtualClock()):
        assert store._clock is own


class Wrapped:
    """A store around another one that hands on what it does not do itself."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_wrapper_is_a_store(tmp_path, kind):
    """A store may be wrapped; one inside that follows a clock follows the runtime's."""
    inner = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "runs.db")
    clock = VirtualClock()
    async with WorkflowRuntime(waiting(), store=Wrapped(inner), clock=clock) as rt:
        receipt = await rt.emit("begin")
        assert (await rt.wait(receipt.run_ids[0])).ok
    assert kind == "memory" or inner._clock is clock
