"""Frozen data and pure functions: what the house agrees on.

House rules: nothing here waits, reads a clock, draws a random number or knows a store. Everything can be called a
million times in a test and gives the same answer.
"""
