"""Runs ONE run: from a checkpoint to an Outcome.

How the room is laid out: `builder` collects what users write, `plan` compiles it once, `active` is a run in memory,
`steps` performs a stage, `boundary` concludes it, `waiting` handles pauses, `runner` is the loop over all of them.
What a run writes leaves through the `Progress` port in `runner`; nothing here knows a store.
"""
