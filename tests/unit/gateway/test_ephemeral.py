"""Versions that no name leads to live for as long as somebody uses them."""

from __future__ import annotations

import msgspec
import pytest
from glowplug_contracts.messages.deployment import (
    Deployment,
    DeploymentSpec,
    DeploymentState,
    FunctionKind,
    SourceRef,
)
from glowplug_gateway.ephemeral import RENEW_PART, fate, is_due, used

KEEP_S = 1000.0
MADE = 5000.0


def a_version(kind: FunctionKind = FunctionKind.FUNCTION, **fields: object) -> Deployment:
    spec = DeploymentSpec(
        name="f", kind=kind, source=SourceRef(), python_version="", dead_letter_keep_s=5 * KEEP_S
    )
    return msgspec.structs.replace(
        Deployment(
            deployment_id="dep_1",
            workspace="default",
            version=0,
            spec=spec,
            ephemeral=True,
            created_at=MADE,
        ),
        **fields,
    )


@pytest.mark.parametrize(
    ("fields", "idle_s", "busy", "expected"),
    [
        ({}, KEEP_S - 1, False, "keep"),
        ({}, KEEP_S + 1, False, "end"),
        ({}, KEEP_S + 1, True, "keep"),
        ({"used_at": MADE + 500}, KEEP_S + 499, False, "keep"),
        ({"used_at": MADE + 500}, KEEP_S + 501, False, "end"),
        ({"state": DeploymentState.DELETED}, 2 * KEEP_S - 1, False, "keep"),
        ({"state": DeploymentState.DELETED}, 2 * KEEP_S + 1, False, "forget"),
        ({"state": DeploymentState.DELETED}, 2 * KEEP_S + 1, True, "keep"),
    ],
)
def test_fate(fields, idle_s, busy, expected):
    assert fate(a_version(**fields), MADE + idle_s, KEEP_S, busy=busy) == expected


@pytest.mark.parametrize("kind", [FunctionKind.TASK_QUEUE, FunctionKind.SCHEDULE])
def test_dead_letters_can_be_replayed_while_they_are_kept(kind):
    version = a_version(kind)
    assert fate(version, MADE + 5 * KEEP_S - 1, KEEP_S, busy=False) == "keep"
    assert fate(version, MADE + 5 * KEEP_S + 1, KEEP_S, busy=False) == "end"


def test_a_use_is_noted_once_in_a_while_and_before_the_end_can_come():
    version = a_version()
    assert not is_due(version, MADE + KEEP_S * RENEW_PART - 1, KEEP_S)
    due = MADE + KEEP_S * RENEW_PART + 1
    assert is_due(version, due, KEEP_S)
    assert not is_due(used(version, due), due + KEEP_S * RENEW_PART - 1, KEEP_S)
    # What may be ended is always due: its next use is written, and meets the end's write.
    assert fate(version, MADE + KEEP_S + 1, KEEP_S, busy=False) == "end"
    assert is_due(version, MADE + KEEP_S + 1, KEEP_S)
