"""One call at a time, through a fake gateway: values, errors, retries, cancelling."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import glowplug
import pytest
from glowplug import errors
from glowplug_contracts.messages.invocation import RemoteError

from tests.support.eventually import eventually
from tests.support.fake_gateway import FakeGateway, repeats


class OwnError(Exception):
    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.reason = reason


@glowplug.function
def identity(value):
    return value


@glowplug.function
def fail(code):
    try:
        {}["the cause"]
    except KeyError as err:
        raise OwnError(code, "because") from err


@glowplug.function
def countdown(start: int):
    yield from range(start, 0, -1)
    if start > 3:
        raise ValueError("too far")


@glowplug.function
async def late(value):
    return value * 2


@pytest.mark.parametrize("value", [0, False, "", [], None, {"a": (1, 2)}, float("inf"), b"x" * 10])
def test_a_falsy_or_plain_result_is_a_result(gateway: FakeGateway, value):
    assert identity.remote(value) == value


def test_a_call_is_remote_and_local_stays_here(gateway: FakeGateway):
    assert identity("there") == "there"
    assert identity.local("here") == "here"
    assert gateway.count("POST", "/call") == 1


def test_deploys_once_for_many_calls(gateway: FakeGateway):
    assert [identity.remote(n) for n in range(3)] == [0, 1, 2]
    assert gateway.count("POST", "/deployments") == 1


def test_fifty_megabytes_go_as_blobs_both_ways(gateway: FakeGateway):
    data = os.urandom(50 * 1024 * 1024)
    assert identity.remote(data) == data
    assert gateway.calls[0]["headers"]["Glowplug-Size"].isdigit()


def test_the_exception_arrives_as_itself_with_cause_and_remote_frames(gateway: FakeGateway):
    with pytest.raises(OwnError) as caught:
        fail.remote(7)
    assert caught.value.args == (7, "because")
    assert caught.value.reason == "because"
    assert isinstance(caught.value.__cause__, KeyError)
    notes = "\n".join(caught.value.__notes__)
    assert "raise OwnError(code" in notes
    assert "test_calls.py" in notes


def test_an_exception_that_can_not_travel_keeps_name_message_and_frames(gateway: FakeGateway):
    gateway.errors["identity"] = RemoteError(
        code="function.failed", type="TorchError", message="no device", traceback="line 3, in f\n"
    )
    with pytest.raises(errors.RemoteUserError, match="TorchError: no device") as caught:
        identity.remote(1)
    assert caught.value.type_name == "TorchError"
    assert "line 3" in caught.value.remote_traceback


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (
            "function.out_of_memory",
            {"limit_bytes": 10, "peak_bytes": 11},
            errors.OutOfMemoryError,
        ),
        ("function.crashed", {"signal": 11}, errors.ContainerCrashedError),
        ("function.timeout", {}, errors.FunctionTimeoutError),
        ("function.start_failed", {}, errors.StartupError),
        ("scheduler.no_worker_fits", {}, errors.NoCapacityError),
    ],
)
def test_platform_errors_are_typed_and_carry_figures(gateway, code, details, kind):
    details = {**details, "last_lines": ["almost there"]}
    gateway.errors["identity"] = RemoteError(code=code, type="X", message="words", details=details)
    with pytest.raises(kind, match="words") as caught:
        identity.remote(1)
    assert caught.value.code == code
    assert "almost there" in "\n".join(caught.value.__notes__)
    if kind is errors.OutOfMemoryError:
        assert (caught.value.limit, caught.value.peak) == (10, 11)
    if kind is errors.ContainerCrashedError:
        assert caught.value.signal == 11


def test_a_lost_connection_is_retried_as_the_same_invocation(gateway: FakeGateway):
    identity.remote(0)
    gateway.break_next = 2
    assert identity.remote(5) == 5
    ids = [one["id"] for one in gateway.calls]
    assert len(ids) == 4
    assert repeats(ids) == [ids[-1]]


def test_the_next_url_is_tried_when_one_does_not_answer(gateway, monkeypatch):
    monkeypatch.setenv("GLOWPLUG_URL", f"http://127.0.0.1:9,{gateway.url}")
    assert identity.remote(1) == 1


def test_a_full_queue_is_an_error_with_the_time_to_wait(gateway: FakeGateway):
    identity.remote(0)
    gateway.full_next = 1
    with pytest.raises(errors.QueueFullError) as caught:
        identity.remote(1)
    assert caught.value.retry_after_s == 0.01


def test_a_deadline_that_has_passed_is_an_answer_and_not_tried_again(gateway: FakeGateway):
    gateway.late_next = 1
    with pytest.raises(errors.DeadlineExceededError):
        identity.remote(1)
    assert len(gateway.calls) == 1


def test_few_frames_of_ours_stand_in_a_traceback(gateway: FakeGateway):
    with pytest.raises(OwnError) as caught:
        fail.remote(7)
    frames = [entry.path.name for entry in caught.traceback]
    assert frames == ["test_calls.py", "wrappers.py"]


def test_a_wrong_token_is_said(gateway: FakeGateway, monkeypatch):
    monkeypatch.setenv("GLOWPLUG_TOKEN", "wrong")
    with pytest.raises(errors.UnauthenticatedError):
        identity.remote(1)


def test_a_generator_streams_its_items_and_its_error(gateway: FakeGateway):
    assert list(countdown.remote(3)) == [3, 2, 1]
    seen = []
    with pytest.raises(ValueError, match="too far"):
        seen.extend(countdown.remote(4))
    assert seen == [4, 3, 2, 1]


async def test_twins_do_the_same_in_an_event_loop(gateway: FakeGateway):
    assert await identity.remote.aio(1) == 1
    assert [item async for item in countdown.remote.aio(2)] == [2, 1]
    assert [one async for one in identity.map.aio([1, 2, 3])] == [1, 2, 3]
    assert await late.local.aio(4) == 8


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it does in a terminal; where tests run in the background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_the_call_there(gateway: FakeGateway):
    identity.remote(0)
    gateway.hold.clear()

    def interrupt() -> None:
        while len(gateway.calls) < 2:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        identity.remote(1)
    thread.join()
    assert gateway.cancelled == [gateway.calls[1]["id"]]


async def test_cancelling_the_twin_cancels_the_call_there(gateway: FakeGateway):
    await identity.remote.aio(0)
    gateway.hold.clear()
    waiting = asyncio.ensure_future(identity.remote.aio(1))
    await eventually(lambda: len(gateway.calls) == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(lambda: gateway.cancelled)
    assert gateway.cancelled == [gateway.calls[1]["id"]]


def test_a_closure_travels_by_value(gateway: FakeGateway):
    base = 40

    @glowplug.function
    def add(number):
        return base + number

    assert add.remote(2) == 42


def test_other_python_versions_are_said_before_any_pickle_error(gateway: FakeGateway):
    gateway.python_there = "3.99"
    assert identity.remote([1, 2]) == [1, 2]
    with pytest.raises(errors.PythonVersionMismatchError, match=r"3\.99"):
        identity.remote(lambda: 1)


def test_a_task_is_put_watched_and_read(gateway: FakeGateway):
    @glowplug.task_queue
    def double(number):
        return number * 2

    gateway.full_next = 1
    gateway.hold.clear()
    task = double.put(21)
    assert task.status() == "PENDING"
    with pytest.raises(errors.ResultTimeoutError):
        task.result(timeout=0)
    gateway.hold.set()
    assert task.result(timeout=20) == 42
    assert task.status() == "COMPLETE"
    assert glowplug.Task.from_id(task.task_id).get() == 42


def test_work_that_lost_its_connection_is_put_as_the_same_task(gateway: FakeGateway):
    @glowplug.task_queue
    def double(number):
        return number * 2

    first = double.put(1)
    gateway.break_next = 1
    task = double.put(2)
    assert (first.get(), task.get()) == (2, 4)
    assert gateway.puts == [first.task_id, task.task_id, task.task_id]


def test_the_result_of_a_task_may_be_a_blob_or_its_exception(gateway: FakeGateway):
    data = os.urandom(2 * 1024 * 1024)
    assert identity.spawn(data).get(timeout=20) == data
    with pytest.raises(OwnError) as caught:
        fail.spawn(7).get(timeout=20)
    assert caught.value.args == (7, "because")


async def test_a_task_is_put_and_read_from_a_loop_as_well(gateway: FakeGateway):
    task = await identity.spawn.aio(3)
    assert await task.get.aio(timeout=20) == 3
    gateway.hold.clear()
    with pytest.raises(errors.ResultTimeoutError):
        await (await identity.spawn.aio(4)).get.aio(timeout=0)
    gateway.hold.set()


def test_a_spawned_call_can_be_cancelled(gateway: FakeGateway):
    call = identity.spawn(1)
    call.cancel()
    assert call.status() == "CANCELLED"
    with pytest.raises(errors.CallCancelledError):
        call.get()


def test_a_task_queue_is_not_called(gateway: FakeGateway):
    queue = glowplug.task_queue(lambda: 1)
    with pytest.raises(TypeError, match="put"):
        queue()


def test_image_builds_fail_with_step_and_output(gateway: FakeGateway):
    gateway.build_events = [
        {"event": "image", "kind": "step", "text": "pip install nothing-such", "cached": False},
        {"event": "image", "kind": "output", "text": "ERROR: no match", "cached": False},
    ]
    gateway.build_error = {"code": "image.build_failed", "message": "pip failed"}

    @glowplug.function(image=glowplug.Image().pip_install("nothing-such"))
    def lacking():
        return 1

    with pytest.raises(errors.ImageBuildError) as caught:
        lacking.remote()
    assert caught.value.step == "pip install nothing-such"
    assert "no match" in caught.value.output
