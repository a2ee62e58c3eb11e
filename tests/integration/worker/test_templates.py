"""Containers forked from templates by the real nursery, in the real sandbox: quick, apart, and no mightier."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from glowplug_contracts.errors import UnavailableError
from glowplug_contracts.ids import Digest
from glowplug_contracts.messages.deployment import SourceRef
from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.network import NetworkSpec
from glowplug_contracts.messages.worker import WorkerOrder
from glowplug_runtime.clock import Clock
from glowplug_worker.keeping import Keeping
from glowplug_worker.networks import HostNetworks
from glowplug_worker.ports import Networks
from glowplug_worker.processes import tree
from glowplug_worker.runtime.choose import choose_backend
from glowplug_worker.runtime.network.own import open_own
from glowplug_worker.runtime.network.rules import make_plan
from glowplug_worker.runtime.nursery.client import open_nursery
from glowplug_worker.starting import ensure_sdk
from glowplug_worker.templates import Templates

from tests.integration.backends.conftest import groups_of
from tests.integration.worker.test_real_runner import a_call
from tests.support.builders_worker import open_worker
from tests.support.crowded import crowded
from tests.support.eventually import eventually
from tests.support.internet import lacks

QUIET = """
import os, random, sys, threading, time, uuid
time.sleep(0.3)  # an import that pays
random.seed(42)
OWN = random.Random(7)
IMPORTED = (time.time(), os.getpid())
DRAWN = [random.random() for _ in range(3)]
LOCAL, HOOKS = threading.local(), []
LOCAL.value = "of the thread that imported"
os.register_at_fork(after_in_child=lambda: HOOKS.append(os.getpid()))

def look():
    print("looking")
    status = dict(l.rstrip("\\n").split(":\\t", 1) for l in open("/proc/self/status") if ":\\t" in l)
    try:
        numpy = sys.modules["numpy"].random.random()
    except KeyError:
        numpy = None
    return {
        "local": getattr(LOCAL, "value", None), "hooks": HOOKS,
        "imported": IMPORTED, "drawn": DRAWN, "pid": os.getpid(),
        "random": [random.random(), OWN.random(), uuid.uuid4().hex, os.urandom(4).hex()],
        "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "status": {k: v for k, v in status.items() if k.startswith(("Cap", "NoNewPrivs", "Seccomp"))},
        "uid": os.getuid(), "cwd": os.getcwd(), "host": os.uname().nodename,
        "tmp": os.listdir("/tmp"), "shm": os.listdir("/dev/shm"), "pts": os.listdir("/dev/pts"),
        "env": [os.environ["GLOWPLUG_CONTAINER_ID"], os.environ["MINE"]],
        "group": open("/proc/self/cgroup").read(),
        "fds": sorted(os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in os.listdir("/proc/self/fd")
                      if os.path.islink(f"/proc/self/fd/{n}")),
        "ns": {n: os.readlink(f"/proc/self/ns/{n}") for n in ("pid", "mnt", "ipc", "uts", "user", "net")},
    }

def networked(here):
    import socket
    host, _, port = here.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        told = "connected"
    except OSError as error:
        told = type(error).__name__
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(("203.0.113.10", 9))
            address = out.getsockname()[0]
    except OSError:
        address = ""
    lines = open("/proc/net/dev").read().splitlines()
    return {
        "interfaces": sorted(line.split(":")[0].strip() for line in lines if ":" in line),
        "address": address, "host": told, "ns": os.readlink("/proc/self/ns/net"),
        "names": open("/etc/resolv.conf").readline().strip(),
    }

def begin():
    return [time.time(), random.random()]

def began(context):
    return context.on_start_value

def leave(name):
    for place in ("/tmp", "/dev/shm"):
        open(f"{place}/{name}", "w").close()
    return os.listdir("/tmp")

def die(code):
    os._exit(code)
"""
THREADED = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
    + QUIET
)
# What numpy's OpenBLAS does: threads that it ends before a fork, and starts again when they are used.
RESTING = (
    """
import os, threading
def work():
    global THREAD, END
    END = threading.Event()
    THREAD = threading.Thread(target=END.wait, daemon=True)
    THREAD.start()
def rest():
    END.set()
    THREAD.join()
work()
os.register_at_fork(before=rest)
def works():
    work()
    return [len(os.listdir("/proc/self/task")), THREAD.is_alive()]
"""
    + QUIET
)
HOLDING = "import socket\nS = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n" + QUIET
# Does everything it can to get namespaces by itself, at import and in the container.
GREEDY = (
    QUIET
    + """
import ctypes
def clone(flags):
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(56, ctypes.c_long(flags), 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return 0 if result > 0 else ctypes.get_errno()
AT_IMPORT = clone(0x3C020011)
def greedy():
    return [AT_IMPORT, clone(0x3C020011), clone(0x10000011), clone(17)]
"""
)


@pytest.fixture
async def worker(request: Any, bus: Any, rest: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A worker that forks; with the parameter "own" its containers have networks of their own."""
    source = tmp_path / "source"
    for name, code in (
        ("quiet", QUIET),
        ("threaded", THREADED),
        ("resting", RESTING),
        ("holding", HOLDING),
        ("greedy", GREEDY),
    ):
        (source / name).mkdir(parents=True)
        (source / name / "app.py").write_text(code)
    data = tmp_path / "worker"
    async with contextlib.AsyncExitStack() as stack:
        cgroups = stack.enter_context(groups_of(data))
        networks: Networks = HostNetworks()
        if getattr(request, "param", "host") == "own":
            networks = await stack.enter_async_context(open_networks_of_own(data / "network"))
        try:
            backend = await choose_backend("bwrap", tmp_path / "probe", cgroups)
        except UnavailableError as error:
            pytest.skip(f"bwrap does not work here: {error.message}")
        try:
            nursery = await open_nursery()
        except UnavailableError as error:
            pytest.skip(error.message)
        data.mkdir(exist_ok=True)

        def templates_of(spawn: Any) -> Templates:
            return Templates(
                backend=backend,
                networks=networks,
                nursery=nursery,
                cgroups=cgroups,
                directory=data,
                sdk=ensure_sdk(data),
                clock=Clock(),
                spawn=spawn,
                keeping=Keeping(budget_bytes=1 << 30, keep_s=3600.0),
            )

        try:
            async with open_worker(
                bus, data, backend, templates_of=templates_of, networks=networks
            ) as service:
                for folder in source.iterdir():
                    service.workshop.images.sources[digest_of(folder.name)] = folder
                yield service
        finally:
            nursery.close()


def open_networks_of_own(directory: Path) -> AbstractAsyncContextManager[Networks]:
    if lacks():
        pytest.skip(lacks())
    plan = make_plan("198.18.0.0/15")
    return open_own(
        f"forks {os.getpid()}", plan, lambda work, _: asyncio.ensure_future(work), directory
    )


def digest_of(name: str) -> Digest:
    return Digest(name.encode().hex().ljust(64, "0"))


class Containers:
    """Starts containers of an app one after the other, and calls them."""

    def __init__(self, worker: Any, rest: Any, app: str) -> None:
        self.worker, self.rest, self.app, self.count = worker, rest, app, 0

    async def start(self, function: str, deployment: str = "", **spec: Any) -> str:
        self.count += 1
        name = f"ctr_{self.app}_{self.count}"
        hooks = {key: spec.pop(key) for key in ("on_start", "sharing") if key in spec}
        ref = SourceRef(blob=digest_of(self.app), handler=f"app:{function}", **hooks)
        owner = deployment or f"dep_{self.app}_{function}"
        fields = {"deployment_id": owner, "env": {"MINE": "mine"}, **spec}
        await self.rest.bound("ready", name, source=ref, **fields)
        return name

    async def call(self, container: str, *values: Any) -> Any:
        before = len(self.rest.outcomes)
        invocation = f"inv_{container}_{before}"
        await self.rest.run(a_call(*values, invocation_id=invocation), container)
        await eventually(lambda: len(self.rest.outcomes) > before)
        outcome = self.rest.outcomes[-1]
        assert outcome.state is State.SUCCEEDED, outcome.error
        return pickle.loads(outcome.result.data)

    async def made(self, count: int) -> None:
        """Wait until so many templates are there."""
        templates = self.worker.workshop.templates
        await eventually(lambda: len(templates.names()) >= count)

    async def stop(self, container: str) -> None:
        self.worker.supervisors[container].stop(1.0, "idle")
        await self.rest.change("stopped", container)


def ways(worker: Any, *containers: str) -> list[str]:
    return [worker.supervisors[each].way for each in containers]


def key_of(templates: Templates, owner: str) -> Any:
    return next(each for each in templates.names() if each.owner == owner)


@pytest.mark.parametrize("worker", ["own"], indirect=True)
async def test_forked_containers_have_networks_of_their_own_too(worker, rest):
    app = Containers(worker, rest, "quiet")
    open_, blocked = NetworkSpec(), NetworkSpec(block=True)
    with socket.create_server(("0.0.0.0", 0)) as here:
        own_address = f"198.19.0.1:{here.getsockname()[1]}"
        found = []
        for spec in (open_, blocked):
            plain = await app.start("networked", network=spec, deployment_id=f"dep_{spec.block}")
            before = await app.call(plain, own_address)
            assert before["interfaces"] == (["lo"] if spec.block else ["eth0", "lo"])
            await app.made(len(found) // 2 + 2)
            for _ in range(2):
                forked = await app.start(
                    "networked", network=spec, deployment_id=f"dep_{spec.block}"
                )
                assert ways(worker, forked) == ["template"]
                found.append(await app.call(forked, own_address))
    first, second, third, fourth = found
    assert first["interfaces"] == second["interfaces"] == ["eth0", "lo"]
    assert third["interfaces"] == fourth["interfaces"] == ["lo"]
    assert len({each["address"] for each in (first, second)}) == 2
    assert len({each["ns"] for each in found}) == 4
    assert [each["host"] for each in found] == ["ConnectionRefusedError"] * 2 + ["OSError"] * 2
    assert {each["names"] for each in found} == {"nameserver 198.18.0.1"}


async def test_containers_are_forked_with_their_imports_done_and_share_nothing_else(worker, rest):
    app = Containers(worker, rest, "quiet")
    first = await app.start("look")
    plain = await app.call(first)
    await app.made(2)  # the bare one of the image, and the deployment's own
    second, third = await app.start("look"), await app.start("look")
    assert ways(worker, first, second, third) == ["plain", "template", "template"]
    one, two = await app.call(second), await app.call(third)

    assert one["imported"] == two["imported"] != plain["imported"]
    assert one["drawn"] == two["drawn"] == plain["drawn"]  # random.seed(42) held while it imported
    drawn = [set(each["random"]) for each in (plain, one, two)]
    assert not drawn[0] & drawn[1]
    assert not drawn[1] & drawn[2]
    assert plain["hooks"] == []
    for each in (one, two):
        # Both forks are told: of process 1, and of the runner, which is its child.
        assert each["hooks"] == [1, each["pid"]]
        assert each["local"] == plain["local"]
        assert each["status"] == plain["status"]
        assert each["env"] == [second if each is one else third, "mine"]
        assert (each["uid"], each["cwd"], each["host"]) == (
            plain["uid"],
            plain["cwd"],
            plain["host"],
        )
        assert (each["tmp"], each["shm"]) == ([], [])
        assert each["pts"] == ["ptmx"]
        assert each["processes"] == [1, each["pid"]]
        assert each["fds"] == plain["fds"]
        assert each["ns"]["net"] == plain["ns"]["net"]
    for name in ("pid", "mnt", "ipc", "uts", "user"):
        assert len({each["ns"][name] for each in (plain, one, two)}) == 3, name
    if worker.workshop.templates.cgroups.paths:
        assert second in one["group"]
        assert third in two["group"]

    # Both may write, neither sees the other; the end of one, in whatever way, is not the other's.
    lines = [line.text for segment in rest.logs for line in segment.lines]
    assert lines.count("looking\n") == 3
    for container in (second, third):
        await app.stop(container)
    fourth = await app.start("look")
    assert ways(worker, fourth) == ["template"]
    assert (await app.call(fourth))["tmp"] == []


async def test_libraries_that_rest_before_a_fork_can_be_forked_from(worker, rest):
    app = Containers(worker, rest, "resting")
    first = await app.start("works")
    await app.call(first)
    await app.made(2)
    second = await app.start("works")
    assert ways(worker, first, second) == ["plain", "template"]
    threads, alive = await app.call(second)
    assert alive
    assert threads >= 2


async def test_their_ends_are_told_and_a_worker_that_ends_leaves_no_process(worker, rest):
    app = Containers(worker, rest, "quiet")
    await app.start("die")
    await app.made(2)
    with crowded():
        second, third = await app.start("die"), await app.start("die")
    await rest.run(a_call(7, invocation_id="inv_die"), second)
    crashed = await rest.change("failed", second)
    assert crashed.error.details["exit_code"] == 7
    supervisor = worker.supervisors[third]
    pids = tree(supervisor.running.pid)
    supervisor.running.kill()
    killed = await rest.change("failed", third)
    assert killed.error.details["signal"] == 9
    await eventually(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids))
    assert worker.workshop.templates.memory_bytes > 0
    # The template is still there and good.
    assert ways(worker, await app.start("die")) == ["template"]


async def test_what_belongs_to_a_deployment_that_is_over_goes_at_once(worker, rest):
    app, templates = Containers(worker, rest, "quiet"), worker.workshop.templates
    await app.start("look")
    await app.made(2)
    forked = await app.start("look")
    views = {each.deployment_id: each for each in templates.views()}
    own = views["dep_quiet_look"]
    assert views.keys() == {"", "dep_quiet_look"}
    assert (own.workspace, own.containers, views[""].containers) == ("default", 1, 0)
    assert own.memory_bytes + views[""].memory_bytes == templates.memory_bytes > 0
    sleeping = templates._templates[key_of(templates, "dep_quiet_look")].template.pid

    templates.forget(["dep_quiet_look"])
    # Its container goes on; nothing new is forked from it, and it goes with the last of them.
    assert "dep_quiet_look" not in templates.deployments()
    assert (await app.call(forked))["tmp"] == []
    await app.stop(forked)
    await eventually(lambda: not Path(f"/proc/{sleeping}/cwd").exists())
    assert [each.deployment_id for each in templates.views()] == [""]
    again = await app.start("look")
    assert ways(worker, again) == ["warm"]


async def test_a_worker_that_was_drained_keeps_no_template(worker, rest):
    app, templates = Containers(worker, rest, "quiet"), worker.workshop.templates
    await app.start("look")
    await app.made(2)
    folders = [each.folder for each in templates._templates.values()]
    worker.duty.take(WorkerOrder(order="drain", grace_s=1.0), list(worker.supervisors.values()), 0)
    await eventually(lambda: not worker.supervisors)
    await eventually(lambda: templates.views() == ())
    await eventually(lambda: not any(each.exists() for each in folders))
    assert templates.memory_bytes == 0


async def test_on_start_runs_in_each_container_unless_it_may_be_shared(worker, rest):
    app = Containers(worker, rest, "quiet")
    values = []
    for number, sharing in enumerate(("", "on_start", "nothing")):
        for turn in range(3):
            name = await app.start("began", f"dep_{number}", on_start="app:begin", sharing=sharing)
            values.append(await app.call(name))
            if turn == 0 and sharing != "nothing":
                await app.made(2 + number)
    each, shared, alone = values[:3], values[3:6], values[6:]
    assert len({value[0] for value in each}) == 3
    assert shared[1] == shared[2] != shared[0]
    assert len({value[0] for value in alone}) == 3
    names = [f"ctr_quiet_{number}" for number in range(1, 10)]
    assert ways(worker, *names) == [
        *("plain", "template", "template"),
        *("warm", "template", "template"),
        *("plain", "plain", "plain"),
    ]


async def test_another_function_of_the_image_is_forked_from_a_bare_runner(worker, rest):
    app = Containers(worker, rest, "quiet")
    await app.start("leave")
    await app.made(2)
    other = await app.start("look")
    assert ways(worker, other) == ["warm"]
    seen = await app.call(other)
    assert seen["cwd"] == "/app"
    assert seen["env"] == [other, "mine"]
    # Another workspace is never forked from this one's.
    strange = await app.start("die", workspace="other")
    assert ways(worker, strange) == ["plain"]
    # What the dynamic linker reads only at the beginning needs a beginning.
    linked = await app.start(
        "look", env={"MINE": "mine", "LD_LIBRARY_PATH": "/x"}, deployment="dep_ld"
    )
    assert ways(worker, linked) == ["plain"]


@pytest.mark.parametrize(("name", "why"), [("threaded", "1 threads"), ("holding", "a socket")])
async def test_what_is_unsafe_to_fork_is_found_and_started_plainly(worker, rest, name, why):
    app = Containers(worker, rest, name)
    first = await app.start("look")
    templates = worker.workshop.templates
    await eventually(templates.unsafe)
    ((deployment, reason),) = templates.unsafe().items()
    assert deployment == f"dep_{name}_look"
    assert why in reason
    await app.made(1)
    second = await app.start("look")
    assert ways(worker, first, second) == ["plain", "warm"]
    assert (await app.call(second))["cwd"] == "/app"


async def test_code_in_a_template_gets_no_namespaces_uninvited(worker, rest):
    app = Containers(worker, rest, "greedy")
    await app.start("greedy")
    await app.made(2)
    forked = await app.start("greedy")
    assert ways(worker, forked) == [
        "template"
    ]  # the control: while it is traced the same call works
    at_import, with_all, with_users, plain = await app.call(forked)
    # Refused; or no such call, where it would be for a tracer to decide.
    assert at_import == with_all == (errno.EPERM if os.geteuid() == 0 else errno.ENOSYS)
    assert (with_users, plain) == (errno.EPERM, 0)
