"""A second process follows a run of this one, on one file."""

from __future__ import annotations

import asyncio
import json

import pytest

from poundlock import Workflow, WorkflowRuntime

pytestmark = pytest.mark.acceptance


async def test_another_process_follows_to_the_end(start, tmp_path):
    """`poundlock timeline RUN --follow` reads while a runtime owns the file, and ends with the run."""
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("answer", on="answered")

    @wf.step
    def last():
        return {"c": 3}

    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with WorkflowRuntime(wf, store=url) as rt:
        run_id = (await rt.emit("begin")).run_ids[0]
        await rt.wait(run_id, until="rest")
        process = start("timeline", run_id, "--follow", "--json", "--store", url)
        first = await asyncio.to_thread(process.stdout.readline)  # it has begun
        assert process.poll() is None
        await rt.emit("answered")
        rest = await asyncio.to_thread(process.stdout.read)
        errors = await asyncio.to_thread(process.stderr.read)
        assert (await asyncio.to_thread(process.wait), errors) == (0, "")
        entries = [json.loads(line) for line in (first + rest).splitlines()]
        assert entries == [entry.to_dict() for entry in (await rt.timeline(run_id)).entries]
