"""Make `.venv` ready for work: `python3 scripts/bootstrap.py [FOLDER]`; quick when there is nothing to do.

House rules: the standard library only, and a syntax that Python 3.7 can still read, so that it gets a sentence instead
of a traceback. No package index is named here: uv and pip use whatever this machine has configured.

An environment counts as ready only while it carries a stamp, which is written last and taken away first. One without
the right stamp is built anew from nothing: neither a killed build nor a package no longer wanted leaves a trace.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two set-ups at the same time are then the caller's to avoid
    fcntl = None  # type: ignore[assignment]

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
STAMP = "poundlock-ready"


def main(root: Path = ROOT, name: str = ".venv") -> None:
    """Leave an environment `name` below `root` that holds exactly what the project's files ask for."""
    require_python(sys.version_info[:2])
    with alone(root):
        venv, wanted = root / name, fingerprint(root)
        if ready(venv, wanted):
            return
        build(root, venv)
        (venv / STAMP).write_text(wanted)


def require_python(version: tuple[int, ...]) -> None:
    """Stop with the next action when this Python is too old."""
    if version < OLDEST:
        have, need = (".".join(map(str, v)) for v in (version, OLDEST))
        sys.exit(
            f"Poundlock needs Python {need} or newer, but {sys.executable} is {have}. "
            f"Next: install a newer one and name it, for example `make test PYTHON=python{need}`."
        )


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Let one set-up of this tree run at a time; the lock dies with the last process that uses it."""
    with (root / "pyproject.toml").open() as held:
        if fcntl is not None:
            # Handed on to uv and pip: when this process is killed they still write, and the next set-up has to wait.
            os.set_inheritable(held.fileno(), True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def fingerprint(root: Path) -> str:
    """Return what the environment depends on, as one word; settings of tools are left out, they install nothing."""
    import tomllib  # not at the top: an old Python has none and must get as far as its sentence

    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    parts = [
        str(root),  # a copied tree brings an environment that points back at the original
        platform.python_version(),
        json.dumps([pyproject["build-system"], pyproject["project"]], sort_keys=True),
        (root / "constraints.txt").read_text(encoding="utf-8"),
        Path(__file__).read_text(encoding="utf-8"),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def ready(venv: Path, wanted: str) -> bool:
    """Tell whether `venv` was finished, from the same inputs, and its Python is still there."""
    stamp = venv / STAMP
    return stamp.is_file() and stamp.read_text() == wanted and python_of(venv).exists()


def build(root: Path, venv: Path) -> None:
    """Build `venv` from nothing, with uv when there is one, else with pip."""
    uv = shutil.which("uv")
    if uv:
        discard(venv)
        say(f"Setting up {venv.name} with uv ...")
        if with_uv(uv, root, venv):
            return
        say("uv could not do it (its own words are above), so pip, which may be configured differently, has a try.")
    discard(venv)
    say(f"Setting up {venv.name} with pip; this happens once and takes about half a minute ...")
    with_pip(root, venv)


def with_uv(uv: str, root: Path, venv: Path) -> bool:
    """Tell whether uv made the environment."""
    install = [uv, "pip", "install", "--quiet", "--python", str(python_of(venv))]
    limits = ["--constraints", "constraints.txt", "--build-constraints", "constraints.txt"]
    return run(root, [uv, "venv", "--quiet", "--python", own_python(), str(venv)]) and run(
        root, [*install, *limits, "--editable", ".[dev]"]
    )


def with_pip(root: Path, venv: Path) -> None:
    """Make the environment with the standard library's venv and the pip inside it, or stop with the next action."""
    if importlib.util.find_spec("ensurepip") is None or not run(root, [own_python(), "-m", "venv", str(venv)]):
        sys.exit(
            f"{sys.executable} cannot make a virtual environment (no working venv and ensurepip). "
            "Next: `apt-get install python3-venv` on Debian and Ubuntu, or put uv on the PATH; then call this again."
        )
    install = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    # By environment, since only so does the isolated build of the package itself obey them (two names: pip 25.3
    # split the second off). A relative name, since pip would cut a path at its blanks.
    limits = {"PIP_CONSTRAINT": "constraints.txt", "PIP_BUILD_CONSTRAINT": "constraints.txt"}
    if not run(root, [*install, "--editable", ".[dev]"], **limits):
        sys.exit(
            "pip could not install what the project needs; its own words are above. Next: see that the network and "
            "the package index work (`python3 -m pip config list` shows which one is set), then call this again."
        )


def run(root: Path, command: list[str], **environment: str) -> bool:
    """Run with the output going straight to the terminal: what a tool has to say is never held back."""
    done = subprocess.run(command, cwd=root, env={**os.environ, **environment}, check=False, close_fds=False)
    return done.returncode == 0


def discard(venv: Path) -> None:
    """Remove `venv`, its stamp first, so that being killed in between leaves nothing that looks ready."""
    (venv / STAMP).unlink(missing_ok=True)
    if venv.exists():
        shutil.rmtree(venv)


def python_of(venv: Path) -> Path:
    """Return the interpreter inside `venv`."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def own_python() -> str:
    """Return an interpreter that outlives `.venv`, also when this one is the one inside it."""
    return getattr(sys, "_base_executable", None) or sys.executable


def say(sentence: str) -> None:
    """Tell progress where it does not mix with what a command prints."""
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(ROOT, *sys.argv[1:2])
