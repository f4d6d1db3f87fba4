"""Export built artifacts as data, and restore them.

House rules:

1. Only artifacts that opted in (`serializable=True`) are exported, as data of their codec; never by pickle.
2. An artifact is restored only if its input is unchanged: the values at every path that it, or anything it depends on,
   has read from state, compared by hash. Otherwise it is built on the next request.
3. A bundle is read completely before anything is restored; a damaged one changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from poundlock.artifacts import explain, graph, reactive
from poundlock.artifacts.make import check_product, publish
from poundlock.artifacts.node import EMPTY, READY, Node, Slot
from poundlock.artifacts.recipe import Recipe
from poundlock.codecs import dump, load
from poundlock.errors import BundleDamaged
from poundlock.guard import describe, for_the_process
from poundlock.records import dataclass

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BundleItem:
    """One artifact as data.

    Attributes:
        key: of the artifact.
        data: what its codec made of it, as JSON text.
        paths: the paths of state it was built from, including those of its dependencies.
        state_hash: hash of the values at these paths.
        dependencies: keys in the same container that it depends on.
    """

    key: str
    data: str
    paths: tuple[str, ...]
    state_hash: str
    dependencies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Artifacts as data: `container.export()`.

    Attributes:
        items: one per artifact.
        version: of the format.
    """

    items: tuple[BundleItem, ...]
    version: int = VERSION

    def to_json(self) -> str:
        """Return the bundle as text, with a checksum."""
        body = self._body()
        return json.dumps({"version": self.version, "checksum": _checksum(body), "items": body})

    def _body(self) -> list[list[Any]]:
        return [
            [each.key, each.data, list(each.paths), each.state_hash, list(each.dependencies)] for each in self.items
        ]

    @staticmethod
    def from_json(text: str | bytes) -> Bundle:
        """Read what `to_json` wrote.

        Raises:
            BundleDamaged: it is cut off, altered, or of a version this code does not know.
        """
        try:
            raw = json.loads(text)
            version, checksum, body = raw["version"], raw["checksum"], raw["items"]
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(f"it is not a bundle ({type(error).__name__}: {error})") from error
        if version != VERSION:
            raise _damaged(f"it has version {version!r}, and this code reads version {VERSION}")
        if _checksum(body) != checksum:
            raise _damaged("its checksum does not match its content")
        return Bundle(tuple(BundleItem(key, data, tuple(at), hash_, tuple(on)) for key, data, at, hash_, on in body))


def _damaged(why: str) -> BundleDamaged:
    return BundleDamaged(
        f"the bundle cannot be used: {why}; nothing was restored: without the bundle, everything is built again"
    )


def _checksum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------- export
def export(node: Node) -> Bundle:
    """Return the built artifacts that opted in.

    Raises:
        ContainerDisposed: the container is closed.
        NotStorable: a codec returned something that is not JSON-like; the path begins with the key.
    """
    if node.closed:
        raise explain.disposed(node)
    chosen = [
        slot
        for slot in node.all_slots()
        if slot.status is READY and slot.recipe.template.serializable and isinstance(slot.key, str)
    ]
    return Bundle(tuple(_item(slot) for slot in chosen))


def _item(slot: Slot) -> BundleItem:
    codec = slot.recipe.template.codec
    paths = tuple(sorted(_read_paths(slot)))
    return BundleItem(
        key=slot.recipe.name,
        data=dump(codec.encode(slot.instance) if codec is not None else slot.instance, slot.name),
        paths=paths,
        state_hash=_state_hash(slot.node, paths),
        dependencies=tuple(
            dict.fromkeys(each.recipe.name for each in graph.dependencies(slot) if each.node is slot.node)
        ),
    )


def _read_paths(slot: Slot) -> set[str]:
    """Return the paths of state that a slot, or anything it depends on, has read from the same store."""
    store, paths, seen, todo = slot.node.store(), set[str](), {slot}, [slot]
    while todo:
        at = todo.pop()
        if at.node.store() is store:
            paths.update(path for selection in at.selections or () for path in selection.paths)
            if at.reads_all:
                paths.add("")
        for below in graph.dependencies(at):
            if below not in seen:
                seen.add(below)
                todo.append(below)
    return paths


def _state_hash(node: Node, paths: Iterable[str]) -> str:
    store = node.store()
    read = [[path, store.select(path)] for path in paths] if store is not None else []
    return hashlib.sha256(dump(_plain(read)).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return read-only views and models of a store as ordered plain data, so that equal states have equal hashes."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if hasattr(value, "items"):
        return {key: _plain(value[key]) for key in sorted(value)}
    if hasattr(value, "__len__") and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


# ------------------------------------------------------------------------------------------------------ restore
def restore(node: Node, bundle: Bundle) -> list[str]:
    """Restore what is still valid, and return its keys.

    Raises:
        BundleDamaged: an artifact cannot be decoded; nothing was restored.
        ContainerDisposed: the container is closed.
    """
    if node.closed:
        raise explain.disposed(node)
    ready: list[tuple[Slot, BundleItem, Any]] = []
    for item in bundle.items:
        recipe = node.own(item.key)
        if recipe is None or not recipe.template.serializable:
            continue  # the code has changed since the export
        slot = node.slot(recipe)
        if slot.status is EMPTY and _state_hash(node, item.paths) == item.state_hash:
            ready.append((slot, item, _decoded(slot, recipe, item)))
    for slot, item, instance in ready:
        started = node.clock.monotonic()
        for path in item.paths:
            reactive.select(slot, path)
        for key in item.dependencies:
            below = node.own(key)
            if below is not None and not below.transient:
                graph.depend(slot, node.slot(below))
        publish(slot, instance, started)
    return [item.key for _, item, _ in ready]


def _decoded(slot: Slot, recipe: Recipe, item: BundleItem) -> Any:
    try:
        data = load(item.data)
        instance = recipe.template.codec.decode(data) if recipe.template.codec is not None else data
        check_product(slot, instance)
    except BaseException as error:  # the codec is the user's
        if for_the_process(error):
            raise
        said = describe(error)
        raise _damaged(f"'{item.key}' cannot be decoded ({said.type}: {said.message})") from error
    return instance
