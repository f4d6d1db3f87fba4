"""A bus delivers events from publishers to subscribers; usable without the rest of Poundlock."""

from poundlock.bus.local import BusStatistics, LocalBus
from poundlock.ports import Bus, Publication, Subscription

__all__ = ["Bus", "BusStatistics", "LocalBus", "Publication", "Subscription"]
