"""Steps with `executor="process"`: sent to another process, answered, killed, and replaced."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
from pathlib import Path
from typing import Annotated

import pytest
import support_processes as work
from pydantic import BaseModel
from support import LAST_RESORT

from poundlock import (
    Event,
    InvalidDefinition,
    Pipeline,
    Retry,
    RunStatus,
    Service,
    Stage,
    Step,
    StepContext,
    Use,
    Workflow,
    WorkflowRuntime,
)
from poundlock.pipeline import processes


def flow(action, id="wf", *, more=(), **options):
    stages = [Stage("one", [Step("s", action, executor="process", **options)]), *more]
    return Workflow(id, pipelines=[Pipeline("main", stages)])


class Hung:
    """A process that writes its id to a named pipe and then hangs."""

    def __init__(self, path):
        self.fifo = str(path / "fifo")
        os.mkfifo(self.fifo)
        self.pid = 0
        self._descriptor = -1

    async def entered(self):
        """Return when it hangs."""
        self.pid = int(await asyncio.to_thread(Path(self.fifo).read_text))
        self._descriptor = os.pidfd_open(self.pid)

    async def gone(self):
        """Return when it has ended."""
        try:
            await asyncio.to_thread(select.select, [self._descriptor], [], [])
        finally:
            os.close(self._descriptor)


@pytest.fixture
def hung(tmp_path):
    if not hasattr(os, "pidfd_open"):
        pytest.skip("this system cannot wait for the end of another's process")
    return Hung(tmp_path)


async def test_a_step_runs_in_another_process_which_stays(runtime, any_store):
    """What it returns is a patch like any other, and the next call uses the same process."""
    rt = await runtime(flow(work.double), store=any_store)
    first = await rt.run("wf", number=4)
    second = await rt.run("wf", number=5)
    assert (first.state["number"], second.state["number"]) == (8, 10)
    assert first.state["pid"] == second.state["pid"] != os.getpid()


async def test_it_is_given_state_event_and_fields(runtime):
    """What can be sent is injected as into any other step."""
    rt = await runtime(flow(work.of_all))
    result = await rt.run("wf", number=3)
    state, _, payload, number = result.state["seen"]
    assert (state, payload, number) == ({"number": 3}, {"number": 3}, 3)


async def test_elements_in_processes(runtime):
    """A step with `each` has its elements done by at most `process_workers` processes, in order."""
    rt = await runtime(flow(work.square, each="items", limit=4), process_workers=2)
    result = await rt.run("wf", items=[3, 4, 5])
    assert result.state["s"] == [[0, 9], [1, 16], [2, 25]]


async def test_ten_thousand_rows(runtime):
    """Large arguments are converted in a thread that belongs to the process."""
    rt = await runtime(flow(work.length))
    rows = [{"id": number, "name": f"row {number}"} for number in range(10_000)]
    assert (await rt.run("wf", rows=rows)).state["rows"] == 10_000


async def test_arguments_are_not_converted_on_the_loop(runtime, monkeypatch):
    """No argument is pickled, and no result read, in the thread of the event loop."""
    threads = set()
    for name in ("_packed", "_unpacked"):
        real = getattr(processes, name)
        monkeypatch.setattr(
            processes, name, lambda value, real=real: (threads.add(threading.current_thread().name), real(value))[1]
        )
    rt = await runtime(flow(work.double))
    await rt.run("wf", number=1)
    assert threads == {"poundlock-process-1"}


@pytest.mark.parametrize(
    ("kind", "text"), [("ValueError", "no"), ("Odd", "1 and 2"), ("SystemExit", "it tried to end the process (3)")]
)
async def test_its_errors_are_those_of_the_step(runtime, kind, text):
    """An error keeps its type and text, also one that cannot be sent as it is, and one that would end the process."""
    rt = await runtime(flow(work.fails))
    result = await rt.run("wf", kind=kind)
    assert (result.error.type, result.error.message) == (kind, text)


async def test_retry_sees_the_type_of_an_error(runtime, vclock):
    """`Retry(on=)` judges errors from a process by their classes."""
    rt = await runtime(flow(work.fails, retry=Retry(2, backoff=0, on=(work.Odd,))))
    result = await rt.run("wf", kind="Odd")
    timeline = await rt.timeline(result.run_id)
    assert "step:retry" in timeline.types()


async def test_a_result_that_cannot_be_sent(runtime):
    """A result that is no data fails the step with a text that says so; the process goes on."""
    rt = await runtime(flow(work.returns_a_lock), flow(work.double, "other"))
    result = await rt.run("wf")
    assert result.error.code == "NOT_STORABLE"
    assert "cannot be sent" in result.error.message
    assert (await rt.run("other", number=1)).ok


@pytest.mark.parametrize(("how", "named"), [("exit", "exit code 3"), ("kill", "SIGKILL")])
async def test_a_process_that_dies_fails_its_step(runtime, any_store, how, named):
    """The error has a code of its own and names exit code or signal; the next call has a new process."""
    rt = await runtime(flow(work.ends), flow(work.double, "other"), store=any_store, process_workers=1)
    result = await rt.run("wf", how=how)
    assert (result.status, result.error.code) == (RunStatus.FAILED, "PROCESS_LOST")
    assert named in result.error.message
    assert (await rt.run("other", number=1)).ok


async def test_a_process_that_dies_can_be_retried(runtime, tmp_path):
    """A Retry of the step applies to the loss of its process."""
    rt = await runtime(flow(work.ends_once, retry=Retry(2, backoff=0)))
    assert (await rt.run("wf", marker=str(tmp_path / "marker"))).state["done"] is True


async def test_a_timeout_kills_the_process_and_no_other(runtime, vclock, hung, any_store):
    """The very process that runs the step is killed; another one goes on, and a new one takes its place."""
    other = flow(work.double, "other")
    rt = await runtime(flow(work.hangs, timeout=5), other, store=any_store, process_workers=2)
    running = asyncio.ensure_future(rt.run("wf", fifo=hung.fifo))
    await hung.entered()
    before = (await rt.run("other", number=1)).state["pid"]
    vclock.advance(5)
    result = await running
    assert result.error.code == "STEP_TIMEOUT"
    await hung.gone()
    pids = {(await rt.run("other", number=1)).state["pid"] for _ in range(3)}
    assert hung.pid not in pids
    assert before in pids


async def test_a_timeout_is_retried_in_a_new_process(runtime, vclock, hung, tmp_path):
    """An attempt that was given up does not hold the next one up, with one process at most."""
    rt = await runtime(flow(work.hangs_once, timeout=5, retry=Retry(2, backoff=0)), process_workers=1)
    running = asyncio.ensure_future(rt.run("wf", fifo=hung.fifo, marker=str(tmp_path / "marker")))
    await hung.entered()
    vclock.advance(5)
    result = await running
    assert result.ok
    assert result.state["done"] != hung.pid


async def test_an_abort_kills_the_process(runtime, hung, any_store):
    """The process of an aborted run ends; one that waits for its place comes next."""
    rt = await runtime(flow(work.hangs), flow(work.double, "other"), store=any_store, process_workers=1)
    running = asyncio.ensure_future(rt.run("wf", fifo=hung.fifo))
    await hung.entered()
    waiting = asyncio.ensure_future(rt.run("other", number=2))
    (live,) = [info for info in rt.list_all_runs() if info.workflow_id == "wf"]
    await rt.abort(live.run_id)
    assert (await running).status is RunStatus.ABORTED
    await hung.gone()
    assert (await waiting).state["number"] == 4


async def test_one_that_waits_for_a_process_can_be_aborted(runtime, hung):
    """A call that no process has begun is dropped; the process of another run is left alone."""
    rt = await runtime(flow(work.hangs), flow(work.double, "other"), process_workers=1)
    running = asyncio.ensure_future(rt.run("wf", fifo=hung.fifo))
    await hung.entered()
    waiting = asyncio.ensure_future(rt.run("other", number=2))
    await asyncio.to_thread(lambda: None)
    while not (others := [info for info in rt.list_all_runs() if info.workflow_id == "other"]):
        await asyncio.to_thread(lambda: None)
    await rt.abort(others[0].run_id)
    assert (await waiting).status is RunStatus.ABORTED
    os.kill(hung.pid, 0)  # it is there
    assert not running.done()
    await rt.abort(next(info.run_id for info in rt.list_all_runs() if info.workflow_id == "wf"))
    await running
    await hung.gone()


async def test_a_process_that_hangs_at_its_start_is_killed(runtime, hung, monkeypatch):
    """A run that is aborted meanwhile does not occupy the place: the next call has a process of its own."""
    monkeypatch.setenv("POUNDLOCK_TEST_FIFO", hung.fifo)
    rt = await runtime(flow(work.double), process_workers=1)
    with monkeypatch.context() as patched:
        patched.setattr(processes, "serve", work.hangs_at_its_start)
        running = asyncio.ensure_future(rt.run("wf", number=1))
        await hung.entered()
    (live,) = rt.list_all_runs()
    await rt.abort(live.run_id)
    assert (await running).status is RunStatus.ABORTED
    await hung.gone()
    assert (await rt.run("wf", number=2)).state["number"] == 4


@pytest.mark.parametrize("name", ["_packed", "_unpacked"])
async def test_a_conversion_that_hangs_takes_no_place_for_ever(runtime, monkeypatch, name):
    """A thread that an argument or a result holds up cannot be ended, so another one takes its place."""
    real = getattr(processes, name)
    entered, release = threading.Event(), threading.Event()

    def holds(value):
        if not entered.is_set():
            entered.set()
            release.wait(LAST_RESORT)
        return real(value)

    monkeypatch.setattr(processes, name, holds)
    rt = await runtime(flow(work.double), process_workers=1)
    running = asyncio.ensure_future(rt.run("wf", number=1))
    await asyncio.to_thread(entered.wait, LAST_RESORT)
    waiting = asyncio.ensure_future(rt.run("wf", number=2))
    while len(live := rt.list_all_runs()) < 2:
        await asyncio.to_thread(lambda: None)
    try:
        await rt.abort(min(info.run_id for info in live))
        assert (await running).status is RunStatus.ABORTED
        assert (await waiting).state["number"] == 4
    finally:
        release.set()


async def test_the_stop_does_not_wait_for_a_busy_process(stores, vclock, hung, tmp_path):
    """It is killed at the end of the stop's grace; the run is as its last commit left it, and goes on later."""
    wf = flow(work.hangs_once)
    rt = await stores.enter(wf)
    marker = str(tmp_path / "marker")
    await rt.invoke("wf", event=Event("go", {"fifo": hung.fifo, "marker": marker}), run_id="r1", until="accepted")
    await hung.entered()
    timers = vclock.pending
    stopping = asyncio.ensure_future(rt.stop(drain=10))
    while vclock.pending == timers:
        await asyncio.to_thread(lambda: None)
    vclock.advance(10)
    await stopping
    await hung.gone()
    again = await stores.enter(flow(work.hangs_once))
    assert (await again.wait("r1")).ok


async def test_a_crash_in_the_middle_of_a_process(stores, hung, tmp_path):
    """The next owner performs the step again, in a process of its own."""
    rt = await stores.enter(flow(work.hangs_once))
    event = Event("go", {"fifo": hung.fifo, "marker": str(tmp_path / "marker")})
    await rt.invoke("wf", event=event, run_id="r1", until="accepted")
    await hung.entered()
    await stores.crash(rt)
    await hung.gone()
    again = await stores.enter(flow(work.hangs_once))
    result = await again.wait("r1")
    assert (result.status, result.metadata["attempt"]) == (RunStatus.COMPLETED, 2)
    assert result.state["done"] != hung.pid


async def test_a_stop_ends_idle_processes(runtime):
    """No process outlives the runtime that started it."""
    rt = await runtime(flow(work.double))
    pid = (await rt.run("wf", number=1)).state["pid"]
    await rt.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_thread_left_behind_does_not_keep_a_process(runtime):
    """A process whose function has left a thread behind ends with the runtime all the same."""
    rt = await runtime(flow(work.leaves_a_thread))
    pid = (await rt.run("wf")).state["pid"]
    await rt.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_signals_to_the_group_do_not_reach_steps(runtime):
    """An interrupt or a request to end that reaches a process too is left to the runtime to decide."""
    rt = await runtime(flow(work.double), process_workers=1)
    pid = (await rt.run("wf", number=1)).state["pid"]
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert (await rt.run("wf", number=1)).state["pid"] == pid


async def test_without_such_steps_nothing_is_started(runtime):
    """A runtime whose steps need no process has no thread and no process for them."""
    wf = Workflow("wf")
    wf.step(lambda: {"a": 1}, id="a")
    rt = await runtime(wf)
    await rt.run("wf")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("poundlock-process")]


async def test_an_undo_in_a_process(runtime, tmp_path):
    """What takes a step back is called where the step was."""
    failing = Stage("two", [Step("fails", work.fail_always)])
    rt = await runtime(flow(work.double, undo=work.taken_back, more=[failing]))
    log = tmp_path / "log"
    result = await rt.run("wf", number=2, log=str(log))
    assert result.status is RunStatus.FAILED
    assert log.read_text() == f"4 {result.state['pid']}\n"


class Mail:
    pass


def wants_context(ctx, number):
    pass


def wants_context_by_type(context: StepContext):
    pass


def wants_a_service(mail: Annotated[Mail, Use("mail")]):
    pass


def wants_by_type(mail: Mail):
    pass


async def coroutine():
    pass


def faults_of(wf):
    async def find(rt):
        with pytest.raises(InvalidDefinition) as refused:
            await rt.register(wf)
        return dict(refused.value.faults)

    return find


@pytest.mark.parametrize(
    ("action", "at"),
    [
        pytest.param(wants_context, ".ctx", id="ctx"),
        pytest.param(wants_context_by_type, ".context", id="context by type"),
        pytest.param(wants_a_service, ".mail", id="Use"),
        pytest.param(wants_by_type, ".mail", id="service by type"),
        pytest.param(lambda: None, "", id="lambda"),
        pytest.param(coroutine, ".executor", id="async"),
        pytest.param(int, "", id="no signature"),
    ],
)
async def test_what_cannot_be_sent_is_a_fault(runtime, action, at):
    """Registration names the parameter, or the function, that cannot be sent to another process."""
    wf = Workflow(
        "wf",
        pipelines=[Pipeline("main", [Stage("one", [Step("s", action, executor="process")])])],
        services=[Service("mail", Mail)],
    )
    rt = await runtime()
    found = await faults_of(wf)(rt)
    assert list(found) == [f"pipelines.main.one.s{at}"]


async def test_a_closure_is_a_fault(runtime):
    """A function inside another one cannot be imported, and the fault says what to do."""

    def inside():
        pass

    found = await faults_of(flow(inside))(await runtime())
    assert "top level of a module" in found["pipelines.main.one.s"]


async def test_an_undo_that_cannot_be_sent_is_a_fault(runtime):
    """An undo is called in a process too, unless it is async."""
    found = await faults_of(flow(work.double, undo=wants_context))(await runtime())
    assert list(found) == ["pipelines.main.one.s.undo.ctx"]
    await (await runtime()).register(flow(work.double, undo=coroutine))


@pytest.mark.parametrize("number", [0, -1, 1.5, True], ids=str)
def test_the_number_of_processes_is_checked(number):
    """`process_workers` is a whole number from 1."""
    with pytest.raises(InvalidDefinition) as refused:
        WorkflowRuntime(process_workers=number)
    assert refused.value.path == "process_workers"


class Order(BaseModel):
    number: int
    pid: int = 0


async def test_a_typed_state(runtime):
    """Fields of a state model are checked and sent like others."""
    wf = Workflow(
        "wf", state=Order, pipelines=[Pipeline("main", [Stage("one", [Step("s", work.double, executor="process")])])]
    )
    rt = await runtime(wf)
    assert (await rt.run("wf", number=4)).state.number == 8


async def test_what_a_process_prints_is_left_alone(runtime, capfd):
    """Standard output and error of a process are those of the runtime's process."""
    rt = await runtime(flow(work.prints))
    await rt.run("wf", text="hello")
    assert capfd.readouterr() == ("hello\n", "hello\n")


async def test_a_process_that_dies_idle_is_replaced(runtime):
    """A process that was killed between two calls is noticed before the next one, which fails for no such reason."""
    rt = await runtime(flow(work.double, retry=Retry(2, backoff=0)), process_workers=1)
    pid = (await rt.run("wf", number=1)).state["pid"]
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(select.select, [ended], [], [])
    os.close(ended)
    again = await rt.run("wf", number=1)
    assert again.state["pid"] != pid
    assert "step:retry" not in (await rt.timeline(again.run_id)).types()


# ------------------------------------------------------------------------------------------------ copies of processes
async def test_a_copy_of_a_process_answers_nothing():
    """A function that forks returns twice; the copy ends there, and no later call gets its answer."""
    async with WorkflowRuntime(flow(work.forks)) as runtime:
        assert (await runtime.run("wf")).state == {"copy": False}
        assert (await runtime.run("wf")).state == {"ended": 0}


async def test_a_copy_of_a_process_does_not_hide_its_end(tmp_path, monkeypatch):
    """A process that dies is noticed although a copy of it keeps its pipe open."""
    monkeypatch.setattr(processes, "_LOOK", 0.01)
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    async with WorkflowRuntime(flow(work.leaves_a_copy)) as runtime:
        try:
            run = await runtime.run("wf", fifo=fifo)
        finally:
            await asyncio.to_thread(Path(fifo).write_text, "")
    assert (run.status, run.error.type, "exit code 3" in run.error.message) == ("failed", "ProcessLost", True)
