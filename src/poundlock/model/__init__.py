"""Frozen data and pure functions, shared by all packages.

House rules: no code here waits, reads a clock or uses a store, so every function always gives the same answer. The only
random value is the id of an `Event` that is created without one.
"""
