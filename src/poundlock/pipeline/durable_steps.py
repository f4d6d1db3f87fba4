"""What a durable function is given as `step`: its operations, each with a key of its own."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from poundlock.callables import called_name
from poundlock.errors import DuplicateKey, InvalidDefinition
from poundlock.guard import repr_of
from poundlock.model.buffers import DEFAULT_BUFFER, Overflow
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import Retry, Wait
from poundlock.model.durations import Duration, moment, seconds
from poundlock.model.events import Event, is_name
from poundlock.model.validation import retry_faults
from poundlock.model.wait_checks import wait_faults
from poundlock.model.waits import wait_events
from poundlock.pipeline.forms import form_as_data_faults
from poundlock.records import NamedTuple

T = TypeVar("T")
Kind = Literal["run", "poll", "sleep", "wait", "start", "gather", "again"]


class Operation(Generic[T]):
    """Something that a durable function asks for: await it, or yield it in a generator. Made by the methods of `step`.

    Attributes:
        kind: which method made it.
        name: of what it is about, such as the function that is called.
        key: names it in the record; no other operation of the same pass has it.
    """

    __slots__ = ("_perform", "asked", "begun", "key", "kind", "name")

    def __init__(self, perform: Callable[[Operation[Any]], Coroutine[Any, Any, Any]], kind: Kind, name: str) -> None:
        self._perform = perform
        self.kind = kind
        self.name = name
        self.key = ""
        self.asked: Any = None
        """What was asked for, by kind."""
        self.begun = False

    def __await__(self) -> Generator[Any, Any, T]:
        return self._perform(self).__await__()

    def __repr__(self) -> str:
        return f"step.{'continue_as_new' if self.kind == 'again' else self.kind}({self.key!r})"


class Call(NamedTuple):
    """A call of a user's function.

    Attributes:
        retry: when a failed attempt is repeated.
        timeout: seconds of each attempt.
        every: seconds between two checks of a poll.
        max_wait: seconds after which a poll is given up.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: Retry | None = None
    timeout: float | None = None
    every: float = 0.0
    max_wait: float | None = None


class Performer(Protocol):
    """Performs operations: one pass of a function."""

    @property
    def run_id(self) -> str: ...
    @property
    def replaying(self) -> bool: ...
    @property
    def logger(self) -> logging.Logger: ...

    async def perform(self, operation: Operation[Any]) -> Any:
        """Return what an operation comes to."""

    def created(self, operation: Operation[Any]) -> None:
        """Note an operation that has to be awaited."""

    def now(self, key: str) -> float:
        """Return the recorded time of a key; the present time is recorded if there is none."""

    def derived(self, key: str) -> str:
        """Return 128 bits that follow from the run and a key, as 32 hex digits."""


class Steps:
    """The operations of a durable function: it is given them as its parameter `step`.

    What an operation comes to is recorded, with its kind, name and key. After a pause, a sleep or a crash the function
    is called again from its top, and each operation that is on record returns what it did then, without being performed
    again. So between operations a function must do the same each time: the time, random values and what may change come
    from operations.

    Each operation has a key: `key=`, or else the name of what it is about, with its number from the second one on:
    `reserve`, `reserve#2`. In code that runs beside other code (`gather`) and in loops whose order may change, give
    keys.

    Attributes:
        run_id: of the run.
        replaying: whether all operations so far came from the record: what is done now was done before.
        logger: a standard logger, whose records also go to the timeline; it is silent while replaying.
    """

    __slots__ = ("_counts", "_performer", "_used")

    def __init__(self, performer: Performer) -> None:
        self._performer = performer
        self._counts: dict[str, int] = {}
        self._used: set[str] = set()

    @property
    def run_id(self) -> str:
        return self._performer.run_id

    @property
    def replaying(self) -> bool:
        return self._performer.replaying

    @property
    def logger(self) -> logging.Logger:
        return self._performer.logger

    # ------------------------------------------------------------------------------------------- calling functions
    @overload
    def run(
        self,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        key: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> Operation[T]: ...

    @overload
    def run(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> Operation[T]: ...

    def run(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> Operation[Any]:
        """Call a function, and record what it returns. A crash repeats only a call that was not recorded.

        Args:
            function: `async def` runs on the event loop, `def` in a worker thread.
            args, kwargs: given to it; for parameters called key, retry or timeout use `functools.partial`.
            key: names the operation; default: the function's name, with its number from the second call on.
            retry: when a failed attempt is repeated; default: never. The attempts are counted across crashes, and a
                longer delay leaves no task behind.
            timeout: limit of each attempt, a duration: seconds, a timedelta, or text such as "2m"; default: none.

        Returns:
            An operation; awaited, it gives what the function returned, as it is read back from the record.

        Raises:
            DuplicateKey: the key was used before in this pass; nothing was called.
            InvalidDefinition: it is no function, has no name and no key was given, or an option is not valid.
            StepError: when awaited: the last attempt failed. `type` and `message` say why.
        """
        call = Call(function, args, kwargs, _retry(retry), _limit("timeout", timeout))
        return self._operation("run", _name_of(function, key), key, call)

    def poll(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        every: Duration,
        max_wait: Duration | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        **kwargs: Any,
    ) -> Operation[Any]:
        """Call a function until it returns something other than `Pending`, and record that. The first call is at once.

        Args:
            function, args, kwargs, key, timeout: see `run`.
            every: duration between two calls; `Pending(after=)` overrules it once. A run that waits for longer
                than a second is delayed, and keeps no task.
            max_wait: duration after which it fails: a StepError of type StepTimeout; default: none.
            retry: repeats calls that fail; a call that does not fail begins the count anew.

        Returns:
            An operation; awaited, it gives what the function returned in the end.

        Raises:
            DuplicateKey, InvalidDefinition: see `run`.
            StepError: when awaited: a call failed for good, or `max_wait` is over.
        """
        limit = _limit("max_wait", max_wait)
        call = Call(function, args, kwargs, _retry(retry), _limit("timeout", timeout), _duration("every", every), limit)
        return self._operation("poll", _name_of(function, key), key, call)

    # -------------------------------------------------------------------------------------------------------- time
    def sleep(self, duration: Duration, *, key: str | None = None) -> Operation[None]:
        """Sleep: up to a second in memory; for longer the run is delayed, and keeps no task.

        Args:
            duration: seconds, a timedelta, or text such as "2h30m".
            key: default: "sleep", with its number from the second one on.
        """
        return self._operation("sleep", "sleep", key, (_duration("duration", duration), None))

    def sleep_until(self, until: dt.datetime | float, *, key: str | None = None) -> Operation[None]:
        """Sleep until a datetime with a zone, or seconds since 1970 UTC, see `sleep`."""
        try:
            at = moment(until)
        except ValueError as error:
            raise InvalidDefinition(f"until: {error}", path="until") from None
        return self._operation("sleep", "sleep", key, (None, at))

    def now(self, *, key: str | None = None) -> float:
        """Return the time by the runtime's clock, in seconds since 1970 UTC: the same in each pass. Not awaited."""
        return self._performer.now(self._key("now", key))

    # ------------------------------------------------------------------------------------------------------ events
    def wait_for(
        self,
        events: str | Sequence[str],
        *,
        correlate: Mapping[str, Any] | None = None,
        where: Sequence[Condition] = (),
        timeout: Duration | None = None,
        form: Mapping[str, Any] | None = None,
        limit: int = DEFAULT_BUFFER,
        ttl: Duration | None = None,
        overflow: Overflow = "drop_oldest",
        key: str | None = None,
    ) -> Operation[Event | None]:
        """Pause the run until an event comes, unless one is there already.

        Events that came earlier count if a wait was armed for them: one of `waits=` of the workflow, from the start, or
        an operation that waited for such events before, until the run pauses again.

        Args:
            events: event type or dotted pattern, or several.
            correlate: {payload path: value}; only events with these values count. Give it where many runs wait.
            where: further conditions on the payload.
            timeout: a duration, from the moment this is reached first; default: none.
            form: JSON schema of what the event, or the patch of an answer by hand, has to contain; of a pydantic model
                `Model.model_json_schema()`. What does not fit is refused, see `Wait`.
            limit, ttl, overflow: of the events that it buffers, see `Wait`.
            key: default: the event types, with a number from the second such wait on. It is the wait's id: what
                `resume(wait=)` and `RunInfo.waits` call it.

        Returns:
            An operation; awaited, it gives the event, or None after the timeout. An answer by hand, `resume(run_id,
            patch)`, is an event of the first of these types from the source "/resume", with the patch as payload.

        Raises:
            DuplicateKey: the key was used before in this pass.
            InvalidDefinition: an argument is not valid.
        """
        wait = Wait(
            events,
            where=where,
            correlate=correlate,
            timeout=timeout,
            form=form,
            limit=limit,
            ttl=ttl,
            overflow=overflow,
        )
        if isinstance(events, Mapping):
            raise InvalidDefinition("events: name event types; the function itself decides what follows", path="events")
        _refuse([*wait_faults("wait_for", wait, []), *form_as_data_faults("wait_for.form", form)])
        return self._operation("wait", ", ".join(wait_events(wait)), key, wait)

    # ------------------------------------------------------------------------------------------------- other runs
    def start(self, workflow_id: str, payload: Any = None, *, key: str | None = None) -> Operation[str]:
        """Start a run of another workflow that is registered here, once; it goes on by itself.

        Args:
            workflow_id: which workflow.
            payload: what it begins with; default: an empty one.
            key: default: the workflow's id, with its number from the second start on.

        Returns:
            An operation; awaited, it gives the id of the run, which is durable by then.

        Raises:
            DuplicateKey: the key was used before in this pass.
            StepError: when awaited: it cannot be started.
        """
        if not is_name(workflow_id):
            raise InvalidDefinition(f"{repr_of(workflow_id, 60)} is not the id of a workflow", path="workflow_id")
        return self._operation("start", workflow_id, key, payload)

    def continue_as_new(self, input: Any = None) -> Operation[Any]:
        """Begin the function again with an empty record, as the same run. It does not return.

        For functions that run for ever: a record that only grows makes each call longer. Operations that run beside it
        are given up.

        Args:
            input: payload of the event that the function is given then; data.
        """
        operation: Operation[Any] = Operation(self._performer.perform, "again", "continue_as_new")
        operation.key = "continue_as_new"
        operation.asked = input
        self._performer.created(operation)
        return operation

    # ------------------------------------------------------------------------------------------------------ several
    def gather(self, *parts: Operation[Any] | Coroutine[Any, Any, Any]) -> Operation[list[Any]]:
        """Do several things at once, and return what they come to, in order.

        If one fails, those that run are let to their end and recorded, those that only wait are given up, and the error
        of the first in order is raised.

        Args:
            parts: operations, or coroutines of functions that await operations themselves. `asyncio.gather` and
                `asyncio.create_task` cannot be used for operations.
        """
        for part in parts:
            if not isinstance(part, Operation) and not hasattr(part, "send"):
                raise InvalidDefinition(
                    f"{repr_of(part, 60)} cannot be gathered: give operations, such as step.run(function)", path="parts"
                )
        operation: Operation[list[Any]] = Operation(self._performer.perform, "gather", "gather")
        operation.key = f"gather of {len(parts)}"
        operation.asked = parts
        self._performer.created(operation)
        return operation

    # ----------------------------------------------------------------------------------------------------- derived
    def uuid(self, *, key: str | None = None) -> str:
        """Return a UUID that follows from the run and the key: the same each time, also after a crash. Not awaited."""
        text = self._performer.derived(self._key("uuid", key))
        return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{'89ab'[int(text[16], 16) % 4]}{text[17:20]}-{text[20:]}"

    def random(self, *, key: str | None = None) -> float:
        """Return a number in [0, 1) that follows from the run and the key, see `uuid`. Not awaited."""
        return (int(self._performer.derived(self._key("random", key)), 16) >> 75) / (1 << 53)

    # -------------------------------------------------------------------------------------------------------- keys
    def _operation(self, kind: Kind, name: str, key: str | None, asked: Any) -> Operation[Any]:
        operation: Operation[Any] = Operation(self._performer.perform, kind, name)
        operation.key = self._key(name, key)
        operation.asked = asked
        self._performer.created(operation)
        return operation

    def _key(self, name: str, key: str | None) -> str:
        if key is None:
            count = self._counts[name] = self._counts.get(name, 0) + 1
            key = name if count == 1 else f"{name}#{count}"
        if not is_name(key) or key.startswith("__"):
            raise InvalidDefinition(
                f"{repr_of(key, 60)} cannot be a key: give key= a printable text that does not begin with two "
                f"underscores",
                path="key",
            )
        if key in self._used:
            raise DuplicateKey(
                f"the key '{key}' was used before in this pass of the function: give each operation its own key, in a "
                f"loop for example key=f'{name} {{number}}'",
                path="key",
                key=key,
            )
        self._used.add(key)
        return key


def _name_of(function: Any, key: str | None) -> str:
    if not callable(function):
        raise InvalidDefinition(
            f"{repr_of(function, 60)} is not a function: give it uncalled, step.run(function, argument)",
            path="function",
        )
    name = called_name(function) or key
    if name is None:
        raise InvalidDefinition(f"{repr_of(function, 60)} has no name: give key=", path="key")
    return name


def _refuse(faults: Sequence[Fault]) -> None:
    for path, text in faults:
        raise InvalidDefinition(f"{path}: {text}", path=path, faults=tuple(faults))


def _retry(retry: Retry | None) -> Retry | None:
    if retry is not None:
        _refuse(list(retry_faults("retry", retry)))
    return retry


def _duration(path: str, value: Duration) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        raise InvalidDefinition(f"{path}: {error}", path=path) from None


def _limit(path: str, value: Duration | None) -> float | None:
    return None if value is None else _duration(path, value)
