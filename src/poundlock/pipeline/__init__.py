"""Runs ONE run: from a checkpoint to an Outcome.

The files, from the top: `runner` is the map (at a wait, in a stage, commit, again) and `prepare` what
comes before it. `at_wait`, `steps` and `concluding` do its parts, with `inbox`, `waits` and `outcome`. `active` is a
run in memory, `writing` turns it into changes and back. `builder` collects what users write, `compiling` makes a `plan`
of it once. `run_view` and `context` are what user code sees. What a run writes leaves through the `Progress` port in
`runner`; nothing here knows a store.
"""
