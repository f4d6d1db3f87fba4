"""The record of a durable function: what its operations have come to, by key.

It is the memo of the stage. An operation that has begun and is not over has an entry that says how far it is, such as
the end of a sleep. House rules: what user code gets is a copy of what was recorded, also the first time; a fault of the
store never reaches user code as an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Final, NoReturn, TypeVar, cast

from poundlock.clock import sleep_for
from poundlock.codecs import detach
from poundlock.errors import NotStorable, PoundlockError, ReplayDivergence, StepError
from poundlock.guard import describe
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.durable_steps import Operation
from poundlock.pipeline.durable_waits import operation_path, take_first
from poundlock.pipeline.functions.emitting import RESERVED, FunctionContext
from poundlock.pipeline.functions.fibers import Broken, Diverged, Fibers
from poundlock.pipeline.inbox import absorb
from poundlock.pipeline.interrupting import Withdrawn, current_task, judge
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.plan import StagePlan

T = TypeVar("T")
_BREATH: Final = 256
"""Operations from the record after which a pass yields: a long record would block the event loop."""


class Recording:
    """The record of a run, read and written by one pass.

    Attributes:
        fibers: the tasks of the pass.
        replaying: whether there are entries on record that were not asked for yet, and nothing new was done.
    """

    def __init__(self, run: ActiveRun, stage: StagePlan, context: FunctionContext) -> None:
        self.run = run
        self.stage = stage
        self.fibers = Fibers(run, stage.path, self._give_up)
        self._context = context
        self._memo = memo_of(run)
        self._ahead = {key for key in self._memo.kept if not key.startswith(RESERVED)}
        self._live = False
        self._replayed = 0
        self._logger: logging.Logger | None = None

    # -------------------------------------------------------------------------------------- what `Steps` needs
    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def replaying(self) -> bool:
        return not self._live and bool(self._ahead)

    @property
    def logger(self) -> logging.Logger:
        if self._logger is None:
            self._logger = self._context.logger
            self._logger.addFilter(lambda _record: not self.replaying)
        return self._logger

    def now(self, key: str) -> float:
        record = self._memo.kept.get(key)
        self._ahead.discard(key)
        if record is None:
            self._live = True
            value = {"op": "now", "name": "now", "result": self.run.clock.now()}
            record = self._memo.note(self._path(key), key, value)
        elif record["op"] != "now":
            self._diverge(key, "now", "now", record)
        return cast("float", record["result"])

    def derived(self, key: str) -> str:
        seed = f"{self.run.run_id}\n{self.run.visit_key}\n{key}"
        return hashlib.blake2s(seed.encode(), digest_size=16).hexdigest()

    # -------------------------------------------------------------------------------------------------- the record
    def _record(self, operation: Operation[Any]) -> Mapping[str, Any] | None:
        """Return what is on record for an operation.

        Raises:
            Withdrawn: it is something else: the pass ends as diverged.
        """
        record: Mapping[str, Any] | None = self._memo.kept.get(operation.key)
        self._ahead.discard(operation.key)
        if record is not None and (record["op"], record["name"]) != (operation.kind, operation.name):
            self._diverge(operation.key, operation.kind, operation.name, record)
        return record

    def _diverge(self, key: str, kind: str, name: str, record: Mapping[str, Any]) -> NoReturn:
        error = ReplayDivergence(
            f"operation '{key}' is {kind} '{name}' now, but {record['op']} '{record['name']}' on record: restore the "
            f"function, give the new operation another key, or abort the run",
            path=key,
            recorded=[record["op"], record["name"]],
            asked=[kind, name],
        )
        self.fibers.finish(Diverged(error))
        raise Withdrawn

    async def _replay(self, operation: Operation[Any], record: Mapping[str, Any]) -> Any:
        """Return or raise what an operation that is over came to."""
        self._replayed += 1
        if not self._replayed % _BREATH:
            await self._turn(sleep_for(self.run.clock, 0))
        if "error" in record:
            raise _step_error(operation, record)
        return detach(record["result"])

    def _path(self, key: str) -> str:
        return operation_path(self.stage.path, key)

    def _note(self, operation: Operation[Any], **data: Any) -> dict[str, Any]:
        value = {"op": operation.kind, "name": operation.name, **data}
        return cast("dict[str, Any]", self._memo.note(self._path(operation.key), operation.key, value))

    async def _keep(self) -> None:
        """Make all that was noted durable.

        Raises:
            Withdrawn: that failed: the pass is over.
        """
        self._context.record()
        try:
            await self._turn(self._memo.keep())
        except PoundlockError as error:
            self.fibers.finish(Broken(error))
            raise Withdrawn from None

    async def _turn(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something of ours; a cancellation is judged.

        Raises:
            Interrupted: the run was interrupted. Withdrawn: the pass is over.
        """
        try:
            return await waiting
        except asyncio.CancelledError as error:
            await judge(self.run, current_task(), error, self.fibers.scope)
            raise

    async def _done(self, operation: Operation[Any], result: Any) -> Any:
        """Record a result, and return it as it is read back.

        Raises:
            StepError: it is not data; that is recorded.
        """
        try:
            record = self._note(operation, result=result)
        except NotStorable as error:
            await self._failed(operation, error)
        await self._keep()
        self._serve()
        return detach(record["result"])

    async def _failed(self, operation: Operation[Any], error: BaseException, attempts: int = 1) -> NoReturn:
        """Record a final failure, and raise it as it is read back (`StepError`)."""
        said = describe(error)
        detail = {"type": said.type, "message": said.message, "code": said.code}
        record = self._note(operation, error=detail, attempts=attempts)
        await self._keep()
        self._serve()
        raise _step_error(operation, record) from (error if isinstance(error, Exception) else None)

    def _give_up(self, operation: Operation[Any]) -> None:
        """Record that an operation is given up while it waits: it is not awaited again."""
        record = self._memo.kept.get(operation.key) or {}
        self._note(operation, **{**record, "op": operation.kind, "gone": True})

    def _serve(self) -> None:
        """Answer waits with what has come meanwhile: the run need not pause for that."""
        run = self.run
        if run.inbox or run.backlog:
            absorb(run)
            for key, blocked in list(self.fibers.blocked.items()):
                if blocked.row is not None and take_first(run, blocked.row, self.stage.path):
                    self.fibers.wake(key)


def _step_error(operation: Operation[Any], record: Mapping[str, Any]) -> StepError:
    error = record["error"]
    return StepError(error["message"], type=error["type"], error_code=error["code"], path=operation.key)
