"""Find the Pythons to test on: `python3 scripts/pythons.py` prints the oldest and the newest supported ones there are.

One line each, `ENVIRONMENT INTERPRETER`, the oldest first; what was looked for, and what is missing, goes to standard
error. The project's classifiers say what is supported.

House rules: the standard library only, and a syntax that Python 3.7 can still read, as for `bootstrap.py`. No folder of
a machine is named: interpreters are looked for on the PATH, and where pyenv says that it keeps them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASK = "import sys{more}; print('%d.%d' % sys.version_info[:2], sys.executable)"


def main(root: Path = ROOT) -> int:
    """Print the environments and interpreters to use; return 1 if there is no supported Python at all."""
    wanted = supported(root)
    found = {version: interpreter for version in wanted for interpreter in [find(version)] if interpreter}
    for version in wanted:
        say(f"Python {version}: {found.get(version, 'not found, so nothing is tested on it')}")
    if not found:
        say(f"Next: install Python {wanted[0]} or newer, so that python{wanted[0]} is on the PATH.")
        return 1
    versions = list(found)
    print(f".venv {found[versions[0]]}")
    if len(versions) > 1:
        print(f".venv-{versions[-1]} {found[versions[-1]]}")
    return 0


def supported(root: Path) -> list[str]:
    """Return the versions of Python that the project's classifiers name, the oldest first."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    return sorted(versions, key=lambda version: int(version.partition(".")[2]))


def find(version: str) -> str | None:
    """Return the path of an interpreter of this version that runs and can make environments; None if there is none."""
    for candidate in candidates(version):
        interpreter = ask(candidate, version)
        if interpreter is not None:
            return interpreter
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield what may be an interpreter of this version, in all folders of the PATH, then of pyenv."""
    for name in (f"python{version}", "python3"):
        # All of them: the first may be a shim of pyenv's, which only complains where its version is not activated.
        for folder in os.get_exec_path():
            if os.path.isfile(os.path.join(folder, name)):  # noqa: PTH113, PTH118 - folders are texts here
                yield os.path.join(folder, name)  # noqa: PTH118 - as above
    if shutil.which("pyenv"):
        kept = Path(answer(["pyenv", "root"]) or "") / "versions"
        patches = [path for path in kept.glob(f"{version}.*") if path.name.rpartition(".")[2].isdigit()]
        for path in sorted(patches, key=lambda path: int(path.name.rpartition(".")[2]), reverse=True):
            yield str(path / "bin" / "python")


def ask(candidate: str, version: str) -> str | None:
    """Return what an interpreter calls itself, if it runs and is of this version."""
    # uv brings what Debian splits off Python.
    more = "" if shutil.which("uv") else ", ensurepip, venv"
    told, _, interpreter = answer([candidate, "-c", ASK.format(more=more)]).partition(" ")
    return interpreter if told == version else None


def answer(command: list[str]) -> str:
    """Return what a command prints, nothing if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def say(sentence: str) -> None:
    """Tell people, apart from what is printed for the caller."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
