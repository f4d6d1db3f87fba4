"""Output for people: tables of receipts and runs, one run in full, a timeline's entries. Values in, rich tables out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from poundlock.cli.feeding import Tally, by_workflow, unmatched
from poundlock.codecs import dump
from poundlock.model.moments import utc_text
from poundlock.model.receipts import Verdict
from poundlock.showing import plain_beside

if TYPE_CHECKING:
    from poundlock.model.outbox import DeadLetter
    from poundlock.model.runs import OperatorPause, RunError, RunInfo, RunResult, StepProgress, WaitInfo
    from poundlock.model.timeline import Timeline
    from poundlock.model.timeline_entry import TimelineEntry
    from poundlock.runtime.checking import Misfit

STATUS_STYLES = {
    "queued": "blue",
    "ready": "blue",
    "running": "cyan",
    "paused": "yellow",
    "delayed": "yellow",
    "completed": "green",
    "failed": "red",
    "aborted": "magenta",
}
_MOST_COLUMNS = 7


def table(*headers: str) -> Table:
    """Return an empty table in the common style."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    for header in headers:
        made.add_column(header, overflow="fold")
    return made


def moment(seconds: float | None) -> str:
    """Return a time as text; "" where there is none."""
    if seconds is None:
        return ""
    return utc_text(seconds, " ", "seconds").removesuffix("+00:00")


def heading(text: str) -> Text:
    """Return the line above a part of the output."""
    return Text(text, style="bold")


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))


# -------------------------------------------------------------------------------------------------------- receipts
def receipts_table(tally: Tally) -> RenderableType:
    """Return the receipts by verdict, a column per workflow; with many workflows, a row for each."""
    grouped = by_workflow(tally)
    if not grouped:
        return Text("No workflow matched any of these events." if tally.emitted else "Nothing new was emitted.")
    if len(grouped) > _MOST_COLUMNS:
        made = table("workflow", "receipts")
        for workflow, verdicts in grouped.items():
            made.add_row(workflow, ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()))
        return made
    made = table("", *grouped)
    for column in made.columns[1:]:
        column.justify = "right"
    for verdict in Verdict:
        figures = [verdicts.get(verdict, 0) for verdicts in grouped.values()]
        if any(figures):
            made.add_row(str(verdict), *(str(figure) if figure else Text("-", style="dim") for figure in figures))
    return made


def letters_table(letters: Iterable[DeadLetter]) -> Table:
    """Return dead letters as a list."""
    made = table("id", "event", "from run", "since", "attempts", "error")
    for letter in letters:
        event = f"{letter.event.type} ({letter.event.id})"
        made.add_row(letter.id, event, letter.run_id, moment(letter.time), str(letter.attempts), letter.error)
    return made


def feed_line(name: str, tally: Tally) -> str:
    """Return a sentence about what was fed."""
    parts = [f"{_many(tally.emitted, 'event')} emitted from {name}"]
    if unmatched(tally):
        parts.append(f"{unmatched(tally)} of them unmatched")
    if tally.handled:
        parts.append(f"{_many(tally.handled, 'line')} already handled")
    if tally.faults:
        parts.append(f"{_many(len(tally.faults), 'line')} with errors")
    return ", ".join(parts) + "."


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def runs_line(runs: Mapping[str, int]) -> Text:
    """Return a sentence with the number of runs of each status in the store."""
    line = Text("Runs in the store: ")
    shown = [(status, number) for status, number in runs.items() if number]
    for place, (status, number) in enumerate(shown):
        line.append(", " if place else "").append(f"{number} {status}", STATUS_STYLES.get(status, ""))
    return line.append("." if shown else "none.")


def held_line(held: int, *, lasting: bool) -> str:
    """Return a sentence about events that are held longer than the command waits. `lasting`: the store keeps them."""
    are, they = ("is", "it is") if held == 1 else ("are", "they are")
    what = "decided by the next runtime on this store" if lasting else "lost, because the store is in memory"
    return f"{_many(held, 'event')} {are} still held by triggers: {they} {what}."


# ------------------------------------------------------------------------------------------------------------ runs
def runs_table(infos: Iterable[RunInfo]) -> Table:
    """Return runs as a list."""
    made = table("run", "workflow", "status", "stage", "key", "created")
    made.columns[0].no_wrap = True  # so that the id can be copied
    for info in infos:
        made.add_row(
            info.run_id,
            info.workflow_id,
            status_text(info.status),
            info.stage or "",
            info.key or "",
            moment(info.created_at),
        )
    return made


def misfits_list(misfits: Iterable[Misfit]) -> Group:
    """Return runs that need attention, by code, and below each why. Reasons are too long for columns of a table."""
    parts: list[RenderableType] = []
    for each in sorted(misfits, key=lambda each: each.code):
        head = Text("  ").append(each.code, "red").append(f" {each.workflow_id} ", "bold").append(f"{each.run_id} ")
        parts.append(head.append(status_text(each.status)).append(f" at {each.stage}" if each.stage else ""))
        parts.append(Padding(Text(" ".join(each.text.split())), (0, 0, 0, 4), expand=False))
    return Group(*parts)


def parked_list(infos: Sequence[RunInfo]) -> Group:
    """Return the paused runs, and below each what it waits for. Ids and waits are too long for columns of a table."""
    parts: list[RenderableType] = []
    for info in infos:
        head = Text("  ").append(f"{info.workflow_id} ", "bold").append(info.run_id)
        parts.append(head.append(f" {info.key}" if info.key else "", "cyan"))
        parts += [Padding(wait_text(wait), (0, 0, 0, 4), expand=False) for wait in info.waits if wait.parked]
    return Group(*parts)


def wait_text(wait: WaitInfo) -> Text:
    """Return a wait as text: its id, event types, how many have come, conditions, and deadline."""
    events = [f"{event} (to {stage})" for event, stage in wait.leads_to.items()] or wait.events
    text = Text().append(wait.id, "yellow").append(": " + (" and " if wait.mode == "all" else " or ").join(events))
    if wait.mode != "any":
        text.append(f", {wait.have} of {wait.need}", "cyan")
    needs = [f"{path} = {plain(value)}" for path, value in wait.correlate.items()]
    needs += [f"{at.field} {at.op} {plain(at.value)}" for at in wait.where]
    if needs:
        text.append(" with " + ", ".join(needs), "dim")
    if wait.expires_at is not None:
        text.append(f" until {moment(wait.expires_at)}", "dim")
    return text


def form_text(form: Mapping[str, Any]) -> str:
    """Return a form as text: its fields with their types, those that need not be there in brackets."""
    fields, required = form.get("properties"), form.get("required", ())
    if not isinstance(fields, Mapping):
        return dump(form)
    texts = []
    for name, schema in fields.items():
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        text = f"{name} ({kind})" if isinstance(kind, str) else str(name)
        texts.append(text if name in required else f"[{text}]")
    return ", ".join(texts)


def pause_text(pause: OperatorPause) -> Text:
    """Return a pause by an operator as text: of what, by whom, since when, and why."""
    what = {"run": "paused", "parent": "paused with its parent"}.get(pause.scope, "its workflow is paused")
    text = Text().append(what, "yellow").append(f" by {pause.by} since {moment(pause.since)}")
    return text.append(f": {pause.reason}" if pause.reason else "")


def progress_text(progress: StepProgress) -> Text:
    """Return how far a step is as text."""
    text = Text().append(progress.step, "cyan").append(f": {progress.done:g}")
    text.append("" if progress.of is None else f" of {progress.of:g}")
    text.append(f", {progress.message}" if progress.message else "")
    return text.append(f" at {moment(progress.time)}", "dim")


def calls_text(calls: Mapping[str, Any]) -> str:
    """Return the sums of recorded calls as text."""
    tokens = f"{calls['input_tokens']} tokens in, {calls['output_tokens']} out"
    return f"{calls['calls']}, {tokens}, cost {calls['cost']:g}"


def plain(value: Any) -> str:
    """Return a value as text: a string unchanged, others as JSON."""
    return value if isinstance(value, str) else dump(value)


def run_page(
    info: RunInfo,
    event: str,
    state: Mapping[str, Any],
    result: Any,
    error: RunError | None,
    calls: Mapping[str, Any] | None,
) -> Group:
    """Return everything about one run."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("run", Text(info.run_id, "bold"))
    facts.add_row("workflow", f"{info.workflow_id}, pipeline {info.pipeline_id}")
    facts.add_row("status", status_text(info.status))
    if info.stage is not None:
        facts.add_row("stage", info.stage)
    for pause in info.paused_by:
        facts.add_row("paused by", pause_text(pause))
    if info.key is not None:
        facts.add_row("key", info.key)
    facts.add_row("event", event)
    facts.add_row("created", moment(info.created_at))
    facts.add_row("updated", moment(info.updated_at))
    if info.wake_at is not None:
        facts.add_row("wakes", moment(info.wake_at))
    if info.attempt > 1:
        facts.add_row("attempt", str(info.attempt))
    for wait in info.waits:
        facts.add_row("waits for" if wait.parked else "buffers", wait_text(wait))
        if wait.form is not None:
            facts.add_row("form", Text(form_text(wait.form)))
        if wait.token is not None:
            facts.add_row("token", Text(wait.token))
    for progress in info.progress:
        facts.add_row("progress", progress_text(progress))
    if calls is not None:
        facts.add_row("calls", calls_text(calls))
    if result is not None:
        facts.add_row("result", plain(result))
    parts: list[RenderableType] = [facts]
    if error is not None:
        facts.add_row("error", Text(str(error), "red"))
        parts += [Text(error.traceback.rstrip(), "dim")] if error.traceback else []
    values = Table.grid(padding=(0, 2))
    values.add_column(style="dim")
    values.add_column(overflow="fold")
    for name, value in state.items():
        values.add_row(name, plain(value))
    return Group(*parts, heading("\nState"), values)


def run_line(run: RunInfo | RunResult, *details: str, result: RunResult | None) -> Text:
    """Return a run as a line: its status, these details, what it returned if its result is given, and its error."""
    line = Text(f"{run.workflow_id} run {run.run_id}: ").append(status_text(run.status))
    for detail in details:
        line.append(f", {detail}")
    if result is not None and result.result is not None:
        line.append(f", {plain(plain_beside(result.result, result.state, result.masks))}")
    if run.error is not None:
        line.append(f", {run.error}", "red")
    return line


# -------------------------------------------------------------------------------------------------------- timeline
def entries_table(timeline: Timeline) -> Table:
    """Return a timeline's entries as a list."""
    made = table("seq", "after", "source", "type", "path", "details")
    made.columns[0].justify = made.columns[1].justify = "right"
    start = timeline.entries[0].time if timeline.entries else 0.0
    for entry in timeline.entries:
        details = [] if entry.payload is None else [dump(entry.payload)]
        details += [] if entry.patch is None else [f"patch {dump(entry.patch)}"]
        made.add_row(
            str(entry.seq), f"{entry.time - start:.3f} s", entry.source, entry.type, entry.path, " ".join(details)
        )
    return made


def entry_line(entry: TimelineEntry, start: float) -> str:
    """Return an entry as a line of text: when it was after the first one, what it is, where, and its details."""
    details = [] if entry.payload is None else [dump(entry.payload)]
    details += [] if entry.patch is None else [f"patch {dump(entry.patch)}"]
    return " ".join([f"{entry.seq:>4} {entry.time - start:>10.3f} s", entry.type, entry.path, *details]).rstrip()


_BAR_STYLES = {"█": "green", "░": "yellow", "▒": "blue", "·": "dim"}


def print_chart(console: Console, lines: Iterable[str]) -> None:
    """Print a chart's lines, bars in colour."""
    for line in lines:
        text = Text(line)
        for mark, style in _BAR_STYLES.items():
            text.highlight_regex(f"{mark}+>?", style)
        console.print(text, soft_wrap=True)
