"""The dispatch index against a list of triggers that is searched from the front, while workflows come and go."""

from __future__ import annotations

import fnmatch
from types import SimpleNamespace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from poundlock.model.definitions import Trigger
from poundlock.model.modes import Transient
from poundlock.runtime.dispatch import DispatchIndex

WORDS = ["a", "b", "c"]
TYPES = [*WORDS, *(f"{x}.{y}" for x in WORDS for y in WORDS), "a.b.c", "a.a.a"]
PATTERNS = [*TYPES, "*", "a.*", "*.b", "a.**", "b.**", "a.*.c", None]


def fits(pattern, event_type):
    """Say whether a type fits a pattern, by the segments of both."""
    if pattern == "*":
        return True
    if pattern.endswith(".**"):
        return event_type == pattern[:-3] or event_type.startswith(pattern[:-2])
    ours, theirs = pattern.split("."), event_type.split(".")
    return len(ours) == len(theirs) and all(fnmatch.fnmatchcase(x, y) for y, x in zip(ours, theirs, strict=True))


class IndexMachine(RuleBasedStateMachine):
    """After each registration the index is what a new one would be, and says what the list says."""

    def __init__(self):
        super().__init__()
        self.index = DispatchIndex()
        self.entries = {}
        self.numbers = 0

    def entry(self, events):
        self.numbers += 1
        triggers = {f"t{n}": Trigger(event) for n, event in enumerate(events)}
        definition = SimpleNamespace(triggers=triggers, pipeline_of=lambda trigger: "main")
        no_functions = SimpleNamespace(when=None, key=None, map=None)
        functions = SimpleNamespace(triggers=dict.fromkeys(triggers, no_functions), mode_key=None)
        return SimpleNamespace(id=f"w{self.numbers}", definition=definition, functions=functions, mode=Transient())

    @rule(events=st.lists(st.sampled_from(PATTERNS), max_size=4))
    def register(self, events):
        entry = self.entry(events)
        self.entries[entry.id] = entry
        self.index.add(entry)

    @rule(data=st.data())
    def deregister(self, data):
        if self.entries:
            self.index.remove(self.entries.pop(data.draw(st.sampled_from(sorted(self.entries)))))

    @rule(event_type=st.sampled_from(TYPES))
    def look(self, event_type):
        """Types that were asked for stay in the cache across registrations."""
        self.index.match(event_type)

    @invariant()
    def agrees_with_the_list(self):
        rebuilt = DispatchIndex()
        for entry in self.entries.values():
            rebuilt.add(entry)
        for event_type in TYPES:
            found = [(route.workflow_id, route.trigger_id) for route in self.index.match(event_type)]
            assert found == [(route.workflow_id, route.trigger_id) for route in rebuilt.match(event_type)]
            expected = {
                (entry.id, trigger_id)
                for entry in self.entries.values()
                for trigger_id, trigger in entry.definition.triggers.items()
                if trigger.event is not None and fits(trigger.event, event_type)
            }
            assert sorted(found) == sorted(expected), event_type  # each once, and no other
        for entry in self.entries.values():
            for trigger_id in entry.definition.triggers:
                assert self.index.find(entry.id, trigger_id).entry is entry
        assert self.index.find(f"w{self.numbers + 1}", "t0") is None


TestIndex = IndexMachine.TestCase
