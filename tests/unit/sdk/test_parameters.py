"""Everything on the public surface is honoured, or refused with a sentence; nothing is ignored."""

from __future__ import annotations

import glowplug
import pytest
from glowplug.errors import NotYetSupportedError
from glowplug.parameters import HONOURED, METHODS_NOT_YET, NAMES_NOT_YET, NOT_YET
from glowplug.sandbox import SandboxInstance

# The parameters of the decorators in the public surface's table.
SURFACE = [
    "app",
    "name",
    "cpu",
    "memory",
    "gpu",
    "gpu_count",
    "gpu_memory",
    "ephemeral_disk",
    "image",
    "workers",
    "concurrent_requests",
    "keep_warm_seconds",
    "max_pending_tasks",
    "timeout",
    "retries",
    "retry_for",
    "no_retry_for",
    "task_policy",
    "autoscaler",
    "on_start",
    "on_exit",
    "volumes",
    "models",
    "block_network",
    "allow_list",
    "secrets",
    "env",
    "authorized",
    "callback_url",
    "inputs",
    "outputs",
    "priority",
    "rate_limit",
    "checkpoint_enabled",
    "pool",
    "region",
]

GIVEN = {
    "app": "shop",
    "name": "other",
    "cpu": 2,
    "memory": "1Gi",
    "gpu": "T4",
    "gpu_count": 2,
    "gpu_memory": "8Gi",
    "ephemeral_disk": "1Gi",
    "image": glowplug.Image(python_version="3.11"),
    "env": {"A": "b"},
    "volumes": [glowplug.Volume("models", "/models", read_only=True)],
    "models": [glowplug.Model("llama")],
    "block_network": True,
    "allow_list": ["pypi.org", "*.pythonhosted.org"],
    "secrets": ["openai", glowplug.Secret("other", ["KEY"])],
    "workers": 3,
    "concurrent_requests": 4,
    "keep_warm_seconds": 5,
    "max_pending_tasks": 6,
    "timeout": 7,
    "retries": 8,
    "retry_for": [ValueError],
    "no_retry_for": [KeyError],
    "rate_limit": "10/m",
    "callback_url": "https://example.com/done",
    "task_policy": glowplug.TaskPolicy(ttl=9),
    "autoscaler": glowplug.QueueDepthAutoscaler(max_containers=10),
    "on_start": print,
    "on_exit": print,
    "checkpoint_enabled": False,
    "authorized": False,
    "inputs": {"x": glowplug.schema.Integer()},
    "outputs": {"y": glowplug.schema.Integer()},
    "priority": 1,
}
KINDS = {
    "endpoint": glowplug.endpoint,
    "function": glowplug.function,
    "task_queue": glowplug.task_queue,
}


def plain(x):
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SURFACE)
def test_every_parameter_changes_what_is_asked_or_is_refused(kind, name):
    decorate = KINDS[kind]
    if name in NOT_YET[kind]:
        with pytest.raises(NotYetSupportedError, match=f"{name}=.* is not yet supported; "):
            decorate(**{name: object()})
        return
    others = {"gpu": "any"} if name in {"gpu_count", "gpu_memory"} else {}
    asked = decorate(**{name: GIVEN[name]}, **others)(plain).asked
    assert asked != decorate(**others)(plain).asked


def test_the_table_covers_the_surface_and_no_name_is_both():
    for kind in KINDS:
        assert HONOURED[kind] | set(NOT_YET[kind]) == set(SURFACE)
    for caller in HONOURED:
        assert not HONOURED[caller] & set(NOT_YET[caller])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_parameter_is_a_type_error_with_the_nearest_name(kind):
    with pytest.raises(TypeError, match="did you mean 'memory'"):
        KINDS[kind](memmory=1)


@pytest.mark.parametrize(
    ("make", "caller"),
    [
        (glowplug.Image, "Image"),
        (glowplug.Sandbox, "Sandbox"),
        (glowplug.TaskPolicy, "TaskPolicy"),
        (glowplug.QueueDepthAutoscaler, "QueueDepthAutoscaler"),
    ],
)
def test_classes_refuse_likewise(make, caller):
    for name in NOT_YET[caller]:
        with pytest.raises(NotYetSupportedError, match=name):
            make(**{name: object()})
    with pytest.raises(TypeError):
        make(nonsense=1)


@pytest.mark.parametrize("name", NAMES_NOT_YET)
def test_a_name_of_later_can_be_imported_and_refuses_to_be_used(name):
    later = getattr(glowplug, name)
    assert not hasattr(later, "__wrapped__")
    with pytest.raises(NotYetSupportedError, match=f"glowplug.{name} is not yet supported; "):
        later()
    with pytest.raises(NotYetSupportedError):

        class Mine(later): ...


def test_unknown_names_do_not_exist():
    with pytest.raises(AttributeError):
        glowplug.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        exec("from glowplug import nonsense")


def test_methods_of_later_refuse():
    owners = {
        "function": glowplug.function(plain),
        "endpoint": glowplug.endpoint(plain),
        "task_queue": glowplug.task_queue(plain),
        "Image": glowplug.Image(),
        "Sandbox": SandboxInstance.__new__(SandboxInstance),
        "Task": glowplug.Task("inv_1"),
    }
    for owner, found in owners.items():
        for name in METHODS_NOT_YET[owner]:
            with pytest.raises(NotYetSupportedError, match=f"{name} is not yet supported"):
                getattr(found, name)
        with pytest.raises(AttributeError):
            found.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": 0},
        {"timeout": "1m"},
        {"workers": 0},
        {"workers": True},
        {"priority": 11},
        {"name": "a b"},
        {"keep_warm_seconds": -2},
        {"max_pending_tasks": 0},
        {"retries": -1},
        {"retry_for": ["ValueError"]},
        {"env": {"A": 1}},
        {"image": "python:3.11"},
        {"on_start": 3},
        {"timeout": 5, "task_policy": glowplug.TaskPolicy(timeout=6)},
        {"retries": 1, "task_policy": glowplug.TaskPolicy(max_retries=2)},
        {"inputs": 3},
    ],
)
def test_values_that_make_no_sense_are_refused_where_they_are_written(given):
    with pytest.raises((TypeError, ValueError)):
        glowplug.function(**given)


def test_retries_follow_what_was_said():
    def retries(**given):
        return glowplug.function(**given)(plain).asked.retry

    assert retries().max_retries == 0
    assert retries(retries=0, retry_for=[ValueError]).max_retries == 0
    assert retries(retry_for=[ValueError]).max_retries == 3
    assert retries(retry_for=[ValueError]).retry_for == ("ValueError",)
    assert retries(task_policy=glowplug.TaskPolicy(max_retries=0)).max_retries == 0


def test_defaults_differ_by_kind():
    ask = {kind: decorate(plain).asked for kind, decorate in KINDS.items()}
    assert [ask[kind].cpu.request_millis for kind in KINDS] == [1000, 125, 125]
    assert [ask[kind].timeout_s for kind in KINDS] == [180, 3600, 3600]
    assert [ask[kind].keep_warm_s for kind in KINDS] == [180, 10, 10]
    assert [ask[kind].max_pending for kind in KINDS] == [100, 0, 0]
    assert [ask[kind].autoscaler.max_containers for kind in KINDS] == [1, 100, 1]


def test_a_buffer_needs_room_beside_what_works():
    scaling = glowplug.QueueDepthAutoscaler(max_containers=3, buffer_containers=2)
    assert scaling.buffer_containers == 2
    for wrong in ({}, {"max_containers": 2, "buffer_containers": 2}, {"buffer_containers": -1}):
        with pytest.raises(ValueError, match="buffer_containers"):
            glowplug.QueueDepthAutoscaler(**({"buffer_containers": 1} | wrong))
