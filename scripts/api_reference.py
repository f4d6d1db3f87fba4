"""Print the reference of classes and methods, `docs/reference/api.md`: `api_reference.py > docs/reference/api.md`.

Signatures and texts come from the code: it is what `help()` shows, to be read in one place. A test compares the page
with what this prints, and fails for a public name that is on no list here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import poundlock
from poundlock.model.comparing import Comparison
from poundlock.model.outbox import DeadLetter
from poundlock.model.replaying import Player, StateChange, StateDiff
from poundlock.model.runs import RunError, StepProgress, WaitInfo
from poundlock.model.timeline import Timeline
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.pipeline.flows import Flow
from poundlock.pipeline.run_view import Resume
from poundlock.ports import Page
from poundlock.runtime.following import Follower

HEAD = """\
# Classes and methods

What can be imported from `poundlock`, with all arguments and defaults. `help(...)` shows the same. Errors have
[a page of their own](errors.md), and the words are explained in the [glossary](glossary.md).

- A **duration** is a number of seconds, a `timedelta`, or text of numbers with the units ms, s, m, h, d, w: `90`,
  `"500ms"`, `"2h30m"`, `"3d"`.
- A **pattern** is an event type in which `*` stands for one part and `**` for any number of parts:
  `order.*`, `order.**`.
- A **path** leads into a payload or a state: `order.lines.0.sku`.
- A moment is seconds since 1970 UTC.

This page is printed by `scripts/api_reference.py`.
"""

GROUPS = {
    "Define a workflow": (
        "Workflow Trigger Debounce Throttle Batch Pipeline Stage Step Children Retry Wait Condition StateRef Service "
        "Use Retention Sensitive"
    ),
    "Write a workflow as one function": "workflow Steps Operation FunctionWorkflow",
    "Build a workflow": "flow Flow Task",
    "Marks in a patch": "DELETE Overwrite",
    "Instructions and routers: what comes next": "Advance Jump JumpTo Pause Pending Delay Terminate Fail branch switch",
    "Modes: who may run": "Transient Serialized SingletonLoop Exclusive",
    "Run it": "WorkflowRuntime StepContext Resume PauseService EnvService",
    "Events and receipts": "Event Receipt ReceiptLine Verdict DeadLetter",
    "Look at runs": "RunInfo RunResult WaitInfo StepProgress RunError Failure RunStatus Page "
    "Follower Timeline TimelineEntry Player StateDiff StateChange Comparison",
}
BESIDES = {
    each.__name__: each
    for each in (
        *(WaitInfo, StepProgress, RunError, Timeline, TimelineEntry, Player, StateDiff, StateChange),
        *(Comparison, Follower, Resume, Page, Flow, DeadLetter),
    )
}
"""Classes that are met as attributes and answers, and need no import."""
NOT_FOR_USERS = {"built", "draft", "abandon", "end_by", "flush", "trusted", "accept", "slots", "secrets"}
"""Methods that the rooms of the package call on each other."""

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")


def page() -> str:
    """Return the page.

    Raises:
        LookupError: a public name is on no list, or a list has a name that is not public.
    """
    listed = {name for names in GROUPS.values() for name in names.split()}
    public = {name for name in poundlock.__all__ if not _is_error(getattr(poundlock, name))}
    if listed != public | BESIDES.keys():
        raise LookupError(f"lists and names differ in {sorted(listed ^ (public | BESIDES.keys()))}: see GROUPS")
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"\n## {title}\n")
        for name in names.split():
            parts += _described(name, BESIDES.get(name) or getattr(poundlock, name))
    return "".join(parts)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _described(name: str, value: Any) -> Iterator[str]:
    yield f"\n### {name}\n\n"
    if inspect.isfunction(value):
        yield f"`{name}{_signature(value)}`\n\n{_text(value.__doc__)}\n"
        return
    if not inspect.isclass(value):
        yield f"{_text(type(value).__doc__)}\n"
        return
    if hasattr(value, "__members__"):
        yield f"{_text(value.__doc__)}\n\n{', '.join(f'`{each.value}`' for each in value.__members__.values())}\n"
        return
    made = ("StepContext", "Steps", "Operation", "FunctionWorkflow", "PauseService", "EnvService")
    if name not in (*made, *BESIDES, "Receipt", "ReceiptLine", "RunInfo", "RunResult"):  # made by users
        yield f"`{name}{_signature(value)}`\n\n"
    yield f"{_text(value.__doc__)}\n"
    for member, found in vars(value).items():
        if member.startswith("_") or member in NOT_FOR_USERS:
            continue
        function = inspect.unwrap(found) if callable(found) else found
        if isinstance(found, property):
            if found.__doc__:
                yield f"\n**`{member}`** {_text(found.__doc__)}\n"
        elif isinstance(found, classmethod | staticmethod) or inspect.isfunction(function):
            function = getattr(value, member)
            way = "await " if inspect.iscoroutinefunction(function) else ""
            yield f"\n**`{way}{member}{_signature(function)}`** {_text(function.__doc__)}\n"


class _Shown:
    """Something that a signature shows as this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(value: Any) -> str:
    """Return the arguments as one writes them: annotations without quotes, no `self`, nothing private."""
    signature = inspect.signature(value)
    parameters = [
        each.replace(
            annotation=each.empty if each.annotation is each.empty else _Shown(_annotation(each.annotation)),
            default=each.empty if each.default is each.empty else _Shown(_default(each.default)),
        )
        for each in signature.parameters.values()
        if each.name != "self" and not each.name.startswith("_")
    ]
    answer = signature.return_annotation
    silent = answer is signature.empty or answer in (None, "None") or inspect.isclass(value)
    returned = signature.empty if silent else _Shown(_annotation(answer))
    return str(signature.replace(parameters=parameters, return_annotation=returned))


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:reading|poundlock(?:\.\w+)*)\.(?=\w)", "", text)


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(_default(each) for each in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if repr(value) == "<factory>":  # of a dataclass's field: an empty mapping in all of ours
        return "{}"
    return value.__name__ if inspect.isclass(value) else repr(value)


def _text(doc: str | None) -> str:
    """Return a docstring as Markdown: paragraphs on one line, sections as lists."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(doc or "").splitlines():
        heading = _SECTION.fullmatch(line)
        if heading:
            section = heading[1]
            if section in ("Returns", "Raises"):
                lines.append(f"{section}:")
        elif not section or not line:
            lines.append(line)
        else:
            lines.append(_item(line[4:], section))
    paragraphs = re.sub(r"(?<=\S)\n(?=[^\n-])", " ", "\n".join(lines))
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"(?<=\S)\n(?=- )", "\n", paragraphs)).strip()


def _item(line: str, section: str) -> str:
    """Return a line of a section; those that go on are indented further."""
    name, colon, rest = line.partition(": ")
    if section in ("Returns", "Raises") or line.startswith(" ") or not colon:
        return line.strip()
    names = ", ".join(f"`{each}`" for each in name.split(", "))
    return f"- {names}: {rest}"


if __name__ == "__main__":
    print(page(), end="")
