"""The command line: `poundlock`, also `python -m poundlock`. Open `main.py` first.

House rules: typer and rich are used only in this package and are imported where they are first needed, so that `--help`
is quick. A command reads its arguments, calls the library, and passes values to `show.py`; it makes no decision that a
program using the library could not make as well.
"""
