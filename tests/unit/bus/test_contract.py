"""LocalBus keeps what every bus promises."""

from __future__ import annotations

from poundlock.bus import LocalBus
from poundlock.ports import Bus
from poundlock.testing.bus_contract import BusContract
from poundlock.testing.recording import RecordingBus


class TestLocalBus(BusContract):
    def make_bus(self, **options) -> Bus:
        return LocalBus(**options)


class TestRecordingBus(BusContract):
    def make_bus(self, **options) -> Bus:
        return RecordingBus(**options)
