"""One file per command. Arguments in, a call into the library, values to `show`; `main.py` lists them."""
