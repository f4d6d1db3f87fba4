"""Events in, commands out. Open `runtime.py` first: it is the map of this room.

The walk of an event: `dispatch` finds who wants it, `commands/admit` decides and commits, `runs` starts what was
admitted, `commands/execute` drives it, `settle` ends or parks it and promotes the next. Every write from outside a run
is a command in `commands/`.
"""
