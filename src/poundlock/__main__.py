"""`python -m poundlock`: the command line."""

from poundlock.cli.main import main

if __name__ == "__main__":
    main()
