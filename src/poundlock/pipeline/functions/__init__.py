"""Durable functions: workflows written as one function, whose operations are recorded.

`workflow.py` has the decorator, `passing.py` one pass of a function from its top. What lower files need lies beside
this package: `durable_steps.py` is what a function is given as `step`, `durable_waits.py` says how its run pauses.

A function is the only step of the only stage of its workflow; all around that stage is the common engine.
"""
