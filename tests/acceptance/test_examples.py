"""The examples, started by the command that is printed at their top."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PRINTED = {
    "hello": "Hello Ada\n",
    "co2_etl": """\
paused: element 5: line 5003 is 1977-05-16,n/a: 'n/a' is no number
the same table meanwhile: rejected
completed: 9999 rows of 40 years
1958: 315.30 ppm, 99 days
1988: 351.41 ppm, 236 days
""",
    "order_saga": """\
on the shelf while all are packed: {'lamp': 0, 'piano': 0}
A completed: one lamp; undone: nothing
B failed: ValueError: a piano does not fit into a parcel; undone: charge, reserve
C aborted: RunAborted: aborted by api: called off; undone: charge, reserve
on the shelf at the end: {'lamp': 1, 'piano': 1}
""",
    "agent_loop": """\
T1, round 1: canal locks: 3 pages about canal locks; 2 words
T1, round 2: canal locks: 3 pages about canal locks; 2 words; 3 pages about shorter
T1 canal locks: 3 pages about canal locks; 2 words; 3 pages about shorter
T1 took 4 calls, 1400 tokens in, cost 0.016
T2, round 1: canal locks: 3 pages about canal locks; 2 words
T2, round 2: canal locks: 3 pages about canal locks; 2 words; 3 pages about no
T2, round 3: canal locks: 3 pages about canal locks; 2 words; 3 pages about no
T2 not agreed: canal locks: 3 pages about canal locks; 2 words; 3 pages about no
T2 took 6 calls, 2100 tokens in, cost 0.024
""",
}


@pytest.mark.acceptance
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_with_one_command(name, tmp_path):
    """It ends well, and prints what it always prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED[name]
    assert list(tmp_path.iterdir()) == []
