"""Events in, commands out. Open `runtime.py` first: it is the map of this room.

The path of an event: `dispatch` finds its triggers, `commands/admit` decides and commits, `runs` makes the runs that
were admitted, `driver` drives them, `settling` ends or parks them and promotes the next. Every write from outside a run
is a command in `commands/`.
"""
