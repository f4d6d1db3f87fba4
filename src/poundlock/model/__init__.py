"""Frozen data and pure functions: what the house agrees on.

House rules: nothing here waits, reads a clock or knows a store, so everything can be called a million times in a test
and gives the same answer. One thing is drawn by chance: the id of an `Event` that is built without one.
"""
