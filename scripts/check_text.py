"""Fail when a file of the project names a package index or a path of somebody's machine: `check_text.py [FOLDER]`.

Both work on one machine only: which index is used is configuration of that machine, and paths differ. The words are put
together from pieces here, so that this file passes its own check.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

INDEXES = ["py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs", "deb." + "debian.org"]
# Homes of people, of build machines and of checkouts; not what every system has, such as a temporary folder.
PLACES = ["ro" + "ot", "ho" + "me", "Us" + "ers", "wo" + "rk", "fa" + "rm"]
FORBIDDEN = re.compile(f"{'|'.join(map(re.escape, INDEXES))}|(?<![\\w.}})*])/(?:{'|'.join(PLACES)})/")


def main(root: Path = ROOT) -> int:
    """Print each finding as `file:line: text`; return 1 when there is one."""
    found = [finding for name in files(root) for finding in findings(root, name)]
    for finding in found:
        print(finding)
    if found:
        print("Next: take out the index or the absolute path; the machine's own configuration and relative paths do.")
    return 1 if found else 0


def files(root: Path) -> list[str]:
    """Return what is, or is about to be, in the repository."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in sorted(set(names)) if (root / name).is_file()]


def findings(root: Path, name: str) -> list[str]:
    """Return the offending lines of one file; what is not text holds none."""
    try:
        text = (root / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    return [
        f"{name}:{number}: {line.strip():.120}"
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN.search(line)
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))
