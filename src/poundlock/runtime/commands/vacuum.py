"""Deleting what is kept no longer."""

from __future__ import annotations

from poundlock.model.durations import Duration
from poundlock.model.retention import Vacuumed
from poundlock.model.validation import duration, whole_number
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.vacuuming import vacuum_all


@dataclass(frozen=True, slots=True)
class Vacuum:
    """Delete ended runs, dead letters and receipts that are kept no longer.

    Attributes:
        limit: how many runs at most; None: all.
        older_than: also delete all runs that ended so long ago, whatever retention says, of any workflow.
        dry_run: only count.
    """

    limit: int | None = None
    older_than: Duration | None = None
    dry_run: bool = False


async def vacuum(core: Core, command: Vacuum) -> Vacuumed:
    """Handle `Vacuum`: returns what was deleted.

    Raises:
        InvalidDefinition: the limit is no whole number from 1, or `older_than` is no duration.
        StoreUnavailable, StoreFull: the store failed; what was deleted before stays deleted, and nothing by half.
    """
    limit = None if command.limit is None else whole_number("limit", command.limit, 1)
    age = None if command.older_than is None else duration("older_than", command.older_than)
    return await vacuum_all(core, limit=limit, older_than=age, dry_run=bool(command.dry_run), receipts=True)
