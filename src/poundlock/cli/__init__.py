"""The command line: `poundlock`, also `python -m poundlock`. Open `main.py` first.

House rules: typer and rich stay inside this room and are imported where they are first needed, so that `--help` is
quick. A command reads its arguments, calls the library, and hands values to `show.py`; it decides nothing that a
program using the library could not decide as well.
"""
