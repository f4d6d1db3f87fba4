"""A step with `each`: its function is called once per element of a list or a mapping in the state, so many at once.

House rules: no more tasks than `limit`, however many elements there are, and nothing is done per element that grows
with their number. One final failure gives up the rest. The results are one patch, of the step as a whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.clock import sleep_for
from poundlock.codecs import detach, dump, pack
from poundlock.errors import StateInvalid, StepFailed
from poundlock.guard import name_of
from poundlock.marks import Overwrite
from poundlock.model.definitions import INSTRUCTIONS
from poundlock.model.outbox import Outgoing
from poundlock.model.paths import MISSING
from poundlock.model.runs import RunError, StepProgress
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.attempts import Attempts, Work
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.interrupting import Scope, asked_for, beside, current_task, disturbed, judge
from poundlock.pipeline.kept_values import sent_as_data, sent_of
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.plan import EachPlan, StepPlan
from poundlock.pipeline.reports import entry_of
from poundlock.pipeline.resting import Parked
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.states import detached_field, element_result, held_at, keys_of, reads_as, written
from poundlock.pipeline.step_results import Element, MappedDone, StepDone, failure_of

_LONG_WAY: Final = 64
"""Elements after which a worker yields: functions that never await anything would block the event loop."""


class Elements:
    """The elements of a list or a mapping in a run's state, as functions are given them.

    With a state model they are as it reads them. Each attempt gets values of its own, as it may change them.

    Args:
        run: the run; its state does not change while this is used.
        step_id: the step, for errors.
        path: where the elements are.

    Raises:
        StateInvalid: there is no list and no mapping.
    """

    __slots__ = ("_digest", "_model", "_path", "_read", "_run", "_source", "_stored", "_view", "keys", "progress")

    def __init__(self, run: RunView, model: Any, step_id: str, path: str) -> None:
        self._run = run
        self._model = model
        self._path = path
        self._view: Any = None
        self.progress: StepProgress | None = None
        """The last one that the function reported for any of them."""
        value, stored = held_at(model, run.state, path)
        if not isinstance(value, list | tuple | Mapping) and isinstance(stored, list | Mapping):
            value = stored  # the model reads a set, for one, which has no order of its own
        if value is MISSING:
            raise StateInvalid(
                f"the state has no '{path}', which step '{step_id}' runs over: write it in an earlier stage, or map it "
                f"from the event",
                path=path,
            )
        if not isinstance(value, list | tuple | Mapping):
            raise StateInvalid(
                f"'{path}' is a {name_of(type(value))}, and step '{step_id}' runs over its elements: it has to be a "
                f"list or a mapping",
                path=path,
            )
        self._source = stored
        self._digest: str | None = None
        self.keys = keys_of(value, stored) if isinstance(value, Mapping) else None
        """Those of a mapping; None for a list."""
        self._read: dict[int, list[Any]] | None = None if value is stored else {1: _items_of(value)}
        """What the model reads, by attempt; None without a model, or where only the stored data counts."""
        if self._read is not None and self.keys is not None and isinstance(stored, Mapping):
            stored = {key: stored.get(key, MISSING) for key in self.keys}
        self._stored = _items_of(stored)

    def __len__(self) -> int:
        return len(self._stored if self._read is None else self._read[1])

    @property
    def digest(self) -> str:
        """A short text that another list or mapping does not have: a signal may have changed it meanwhile."""
        if self._digest is None:
            self._digest = hashlib.blake2s(dump(self._source).encode(), digest_size=8).hexdigest()
        return self._digest

    def at(self, index: int) -> Element:
        """Return the name of an element."""
        return Element(index, None if self.keys is None else self.keys[index])

    def item(self, index: int, attempt: int) -> Any:
        """Return an element for one of its attempts."""
        read = self._read
        if read is None:
            return detach(self._stored[index])
        if attempt not in read:  # one reading of the state gives an item to each element's attempt of this number
            read[attempt] = _items_of(held_at(self._model, self._run.state, self._path)[0])
        return read[attempt][index]

    def stored_item(self, index: int, attempt: int) -> Any:
        """Return an element as it is stored; MISSING if the model has made it: a default, or one of other elements.

        The model may sort them, so what is at its place may be another one.
        """
        if len(self._stored) != len(self):
            return MISSING
        stored = detach(self._stored[index])
        return stored if self._read is None or reads_as(stored, self.item(index, attempt)) else MISSING

    def field(self, name: str) -> Any:
        """Return another field of the state model: it is not read anew for each element."""
        if self._view is None:
            self._view = self._run.view()
        return detached_field(self._view, name, self._run.view)


class GivenElements(Elements):
    """The elements of a list or a mapping that a function of the user returned.

    Raises:
        StepFailed: it is neither.
        NotStorable: a value in it is not data.
    """

    __slots__ = ()

    def __init__(self, run: RunView, value: Any, step_id: str) -> None:
        if not isinstance(value, list | tuple | Mapping):
            raise StepFailed(
                f"over= of '{step_id}' returned a {name_of(type(value))}: return a list or a mapping", path=step_id
            )
        stored = pack(value)[0]
        self._run, self._model, self._path, self._view, self._read = run, None, "", None, None
        self.keys = list(stored) if isinstance(stored, Mapping) else None
        self._source, self._digest = stored, None
        self._stored = _items_of(stored)


def _items_of(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


class ElementContext(StepContext):
    """One attempt of a step for one element."""

    __slots__ = ("_element", "_elements")

    def __init__(self, run: RunView, step: StepPlan, attempt: int, elements: Elements, element: Element) -> None:
        super().__init__(run, step, attempt)
        self._elements = elements
        self._element = element

    @property
    def item(self) -> Any:
        """The element, for this attempt alone."""
        return self._elements.item(self._element.index, self.attempt)

    @property
    def stored_item(self) -> Any:
        """The element as it is stored."""
        return self._elements.stored_item(self._element.index, self.attempt)

    @property
    def index(self) -> int:
        """Its place, from 0."""
        return self._element.index

    @property
    def key(self) -> Any:
        """Its key; MISSING in a list."""
        return MISSING if self._element.key is None else self._element.key

    def field(self, name: str) -> Any:
        """A field of the state model."""
        return self._elements.field(name)

    def _keep(self, report: StepProgress) -> None:
        self._elements.progress = report  # one for all: there may be thousands of elements

    def _place(self) -> str:
        element = self._element
        return f"{super()._place()}/{element.index if element.key is None else element.key}"

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step for this element at this point of the run, also after a crash."""
        element = self._element
        return f"{super().idempotency_key}/{element.place}"


class Mapped(Work):
    """A step with `each`: all its elements.

    Attributes:
        elements: those it runs over.
        failure: why the first element failed for good.
    """

    __slots__ = ("_each", "_next", "_outgoing", "_results", "elements", "failure")

    def __init__(self, run: ActiveRun, step: StepPlan, each: EachPlan, scope: Scope | None) -> None:
        super().__init__(run, step, scope)
        self._each = each
        self._next = 0
        self._results: list[Any] = []
        self._outgoing: dict[int, Sequence[Outgoing]] = {}
        """The events that calls have emitted, by the place of the element."""
        self.elements: Elements
        self.failure: RunError | None = None

    async def _result(self) -> StepDone | RunError:
        run, step, task = self.run, self.step, current_task()
        self.elements = Elements(run, run.plan.state_model, step.id, self._each.path)
        if disturbed(run, task) and (stray := await judge(run, task, None, self.scope)) is not None:
            raise stray
        detail = dump({"elements": len(self.elements)})
        run.journal.add(run.clock.now(), "pipeline", "step:start", step.path_json, detail)
        self._results = [MISSING] * len(self.elements)
        self._recall()
        try:
            await self._all()
        finally:
            last = self.elements.progress
            if last is not None:
                run.journal.add(last.time, "pipeline", "step:progress", step.path_json, entry_of(last))
        if self.failure is not None:
            return self.failure
        done = self._done()
        run.journal.add(run.clock.now(), "pipeline", "step:success", step.path_json, detail)
        return done

    def _failed(self, error: BaseException) -> RunError | None:
        return self.failure or super()._failed(error)

    async def _all(self) -> None:
        """Have all elements done by some workers, unless one fails."""
        run, outer = self.run, self.scope
        scope = Scope(outer)
        loop = asyncio.get_running_loop()
        name = f"step {self.step.path}"
        count = min(self._each.limit, len(self.elements))
        workers = [loop.create_task(self._work(scope), name=name) for _ in range(count)]
        if not workers:
            return
        resting = run.resting
        if resting is not None:  # in place of this step, its workers work or rest
            resting.more(count)
            resting.less()
        try:
            failed = await beside(run, workers, scope, None, _has_failed)
        except asyncio.CancelledError as error:
            await judge(run, current_task(), error, outer)
            raise
        finally:
            if resting is not None:
                resting.more(1)
        if asked_for(run) is not None or (outer is not None and outer.given_up):
            await judge(run, current_task(), None, outer)
        if failed is not None:
            if failed.cancelled():  # from outside, before it began: `outcome` never raises it
                raise asyncio.CancelledError
            failed.result()  # raises what is not for the run
        elif resting is not None and resting.parked and any(value is MISSING for value in self._results):
            self._park()

    async def _work(self, scope: Scope) -> RunError | None:
        """Do elements until none is left, or one has failed, or the run is parked."""
        try:
            while self._next < len(self._results) and self.failure is None:
                index = self._next
                self._next += 1
                if self._results[index] is not MISSING:
                    continue  # done before the run was parked, or by its last owner
                call = _Call(self, scope, self.elements.at(index))
                outcome = await call.outcome()
                if outcome is not call:
                    return outcome  # the failure, or None: it was given up
                self._results[index] = call.value
                if call.outgoing:
                    self._outgoing[index] = call.outgoing
            return None
        finally:
            if self.run.resting is not None:
                self.run.resting.less()

    def _done(self) -> MappedDone:
        keys, into = self.elements.keys, self._each.into
        results: Any = self._results if keys is None else dict(zip(keys, self._results, strict=True))
        patch = {into: results if keys is None else Overwrite(results)}  # what an earlier visit wrote goes
        stored, text = written(self.run.plan.state_model, patch, self.run.state)
        outgoing = [each for place in sorted(self._outgoing) for each in self._outgoing[place]]
        return MappedDone(self.step, stored, text, outgoing=outgoing, results=results)

    def result_of(self, element: Element, result: Any) -> Any:
        """Return what the function returned for an element, as it is stored.

        Raises:
            StepFailed: it is an instruction.
            NotStorable, StateInvalid: it is no data, or does not fit the state's model.
        """
        if isinstance(result, INSTRUCTIONS):
            raise StepFailed(
                f"step '{self.step.id}' returned {name_of(type(result))} for one of its elements: return a value, and "
                f"let a router or the next step decide where the run goes",
                path=self.step.path,
            )
        return element_result(self.run.plan.state_model, self._each.into, element.place, result)

    # ------------------------------------------------------------------------------------- what is kept of them
    @property
    def keeps(self) -> bool:
        """Whether each result is kept at once."""
        return self.run.plan.keeps_steps and self.run.resting is not None

    def place_of(self, element: Element) -> str:
        """Return what names an element in the memo."""
        return f"{self.elements.digest}/{element.place}"

    def note(self, element: Element, value: Any, outgoing: Sequence[Outgoing] | None) -> None:
        """Put the result of an element, and what it has emitted, into the memo."""
        memo = memo_of(self.run)
        if outgoing:  # first: where the result is kept, this is too
            memo.note(self.step.path_json, self._sent_key(element), sent_as_data(outgoing))
        memo.note(self.step.path_json, self._key(element), value)

    def _recall(self) -> None:
        """Take over the results of the elements that were done before."""
        memo = self.run.memo
        if memo is None or not memo.kept or self.run.resting is None:
            return
        for index in range(len(self._results)):
            element = self.elements.at(index)
            self._results[index] = memo.kept.get(self._key(element), MISSING)
            if (sent := memo.kept.get(self._sent_key(element))) is not None and self._results[index] is not MISSING:
                self._outgoing[index] = sent_of(sent)

    def _park(self) -> None:
        """Keep what is done so far: the run is parked."""
        memo = memo_of(self.run)
        for index, value in enumerate(self._results):
            element = self.elements.at(index)
            if value is not MISSING and self._key(element) not in memo.kept:
                self.note(element, value, self._outgoing.get(index))
        raise Parked

    def _key(self, element: Element) -> str:
        return f"done:{self.step.id}:{self.place_of(element)}"

    def _sent_key(self, element: Element) -> str:
        return f"sent:{self.step.id}:{self.place_of(element)}"


class _Call(Attempts):
    """The attempts for one element."""

    __slots__ = ("_mapped", "element", "value")

    def __init__(self, mapped: Mapped, scope: Scope, element: Element) -> None:
        super().__init__(mapped.run, mapped.step, scope)
        self._mapped = mapped
        self.element = element
        self.value: Any = None

    async def _result(self) -> _Call:
        """Return itself, with the value: None is a value too."""
        if self.element.index % _LONG_WAY == _LONG_WAY - 1:
            await sleep_for(self.run.clock, 0)
        self.value = await super()._result()
        if self._mapped.keeps:
            self._mapped.note(self.element, self.value, self.outgoing)
            await memo_of(self.run).keep()
        return self

    def _place(self) -> str:
        return self._mapped.place_of(self.element)

    def _begin(self, number: int) -> StepContext:
        return ElementContext(self.run, self.step, number, self._mapped.elements, self.element)

    def _take(self, result: Any) -> Any:
        return self._mapped.result_of(self.element, result)

    def _detail(self, number: int) -> dict[str, Any]:
        return {**super()._detail(number), **self.element.detail}

    def _failed(self, error: BaseException) -> RunError | None:
        if self._mapped.failure is not None:
            return None  # another one failed at the same moment, so this one is given up
        self._mapped.failure = failure_of(self.run, self.step, error, self.made, self.element)
        return self._mapped.failure


def _has_failed(task: asyncio.Task[RunError | None]) -> bool:
    return task.cancelled() or task.exception() is not None or task.result() is not None
