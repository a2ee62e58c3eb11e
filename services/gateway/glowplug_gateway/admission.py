"""Decide whether a gateway takes a call in.

Second step of the journey: asked before anything is published. A call is taken unless its deployment,
its workspace or its shard already holds as much as it may; then it is refused with the time after
which asking again makes sense.

What a gateway knows is what it holds itself, exactly, and what the dispatcher announces for everybody
(BacklogChanged, at most 50 ms old). Pending, for `max_pending`, is what was accepted and has not ended:
own in hand + durable accepted since the last report + others' share of that report. A report older than
REPORT_STALE_S is forgotten, so a dead dispatcher can't refuse calls for ever.

Invariants (`check`): A1 counts equal the sum over the calls in hand; A2 no count is negative.
Nothing is kept for a deployment that has no calls in hand and no fresh report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec
from glowplug_contracts.errors import InvariantError
from glowplug_contracts.ids import DeploymentId, InvocationId, WorkspaceId
from glowplug_contracts.streams import SHARD_BACKLOG_MAX

REPORT_STALE_S = 30.0
# What one gateway holds for one workspace; beyond it memory, not patience, would end the calls.
WORKSPACE_IN_HAND_MAX = 100_000
RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 30.0
# How much of a new interval between two endings goes into the known pace.
PACE_WEIGHT = 0.2


class CallOffered(msgspec.Struct, frozen=True, kw_only=True):
    """A caller wants `inputs` inputs run.

    `held` is false for durable work: it is in nobody's hand, and counted until the next report.
    `max_pending` 0 means no limit of the deployment.
    """

    invocation_id: InvocationId
    workspace: WorkspaceId
    deployment_id: DeploymentId
    shard: int
    inputs: int = 1
    max_pending: int = 0
    held: bool = True


class CallLeft(msgspec.Struct, frozen=True):
    """A call taken in is answered or given up; unknown ids are ignored."""

    invocation_id: InvocationId


class BacklogHeard(msgspec.Struct, frozen=True, kw_only=True):
    """A dispatcher's report about one deployment, in inputs of all gateways."""

    deployment_id: DeploymentId
    shard: int
    queued: int
    in_flight: int


class Ticked(msgspec.Struct, frozen=True):
    """Time passes; stale reports are forgotten. Once a second is enough."""


Event = CallOffered | CallLeft | BacklogHeard | Ticked


class Admit(msgspec.Struct, frozen=True):
    """The call is in hand (or, durable, may be recorded)."""

    invocation_id: InvocationId


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """The call must come later. `limit` is what it met: "deployment", "workspace" or "shard"."""

    invocation_id: InvocationId
    limit: str
    pending: int
    bound: int
    retry_after_s: float


Decision = Admit | Refuse


class _Demand(msgspec.Struct):
    """What is known of one deployment."""

    shard: int
    own: int = 0  # inputs in this gateway's hand
    unseen: int = 0  # durable inputs accepted since the last report
    others: int = 0  # inputs of the last report that are not ours
    reported_at: float = -1.0
    reported: int = 0  # queued + in flight of the last report, for the shard's sum
    left_at: float = -1.0
    pace_s: float = 0.0  # smoothed seconds between two inputs' endings; 0 = unknown

    def pending(self) -> int:
        return self.own + self.unseen + self.others


class _Call(msgspec.Struct, frozen=True):
    deployment_id: DeploymentId
    workspace: WorkspaceId
    inputs: int


class Admission:
    """The machine. `step` mutates only its own state and returns decisions."""

    def __init__(
        self,
        *,
        workspace_max: int = WORKSPACE_IN_HAND_MAX,
        shard_max: int = SHARD_BACKLOG_MAX,
    ) -> None:
        self._workspace_max = workspace_max
        self._shard_max = shard_max
        self._calls: dict[InvocationId, _Call] = {}
        self._demands: dict[DeploymentId, _Demand] = {}
        self._workspaces: dict[WorkspaceId, int] = {}
        self._shards: dict[int, int] = {}

    def step(self, event: Event, now: float) -> Sequence[Decision]:
        """Take in one event; only CallOffered is answered (by exactly one decision)."""
        match event:
            case CallOffered():
                return (self._on_offered(event, now),)
            case CallLeft():
                self._on_left(event.invocation_id, now)
            case BacklogHeard():
                self._on_backlog(event, now)
            case Ticked():
                self._on_ticked(now)
            case _:
                assert_never(event)
        return ()

    def pending(self, deployment_id: DeploymentId) -> int:
        """Return how many inputs of a deployment are thought to be accepted and not ended."""
        demand = self._demands.get(deployment_id)
        return demand.pending() if demand else 0

    def in_hand(self, workspace: WorkspaceId) -> int:
        """Return how many inputs this gateway holds for a workspace."""
        return self._workspaces.get(workspace, 0)

    def __len__(self) -> int:
        return len(self._calls)

    def _on_offered(self, call: CallOffered, now: float) -> Decision:
        if call.invocation_id in self._calls:
            return Admit(call.invocation_id)  # the same invocation again: it is in hand already
        demand = self._demands.get(call.deployment_id)
        if demand is None:
            demand = _Demand(call.shard)
        refusal = self._refusal(call, demand)
        if refusal is not None:
            return refusal
        self._demands[call.deployment_id] = demand
        if not call.held:
            demand.unseen += call.inputs
            demand.left_at = max(demand.left_at, now)
            return Admit(call.invocation_id)
        self._calls[call.invocation_id] = _Call(call.deployment_id, call.workspace, call.inputs)
        demand.own += call.inputs
        self._workspaces[call.workspace] = self.in_hand(call.workspace) + call.inputs
        return Admit(call.invocation_id)

    def _refusal(self, call: CallOffered, demand: _Demand) -> Refuse | None:
        pending = demand.pending()
        # One batch may pass the bound when nothing waits: else a batch larger than it never could.
        if call.max_pending and pending and pending + call.inputs > call.max_pending:
            excess = pending + call.inputs - call.max_pending
            return _refuse(call, "deployment", pending, call.max_pending, demand.pace_s * excess)
        in_hand = self.in_hand(call.workspace)
        if in_hand and in_hand + call.inputs > self._workspace_max:
            return _refuse(call, "workspace", in_hand, self._workspace_max, RETRY_AFTER_MIN_S)
        shard = self._shards.get(call.shard, 0)
        if shard + call.inputs > self._shard_max:
            return _refuse(call, "shard", shard, self._shard_max, RETRY_AFTER_MIN_S)
        return None

    def _on_left(self, invocation_id: InvocationId, now: float) -> None:
        call = self._calls.pop(invocation_id, None)
        if call is None:
            return
        demand = self._demands[call.deployment_id]
        demand.own -= call.inputs
        if demand.left_at >= 0.0:
            gap = (now - demand.left_at) / call.inputs
            demand.pace_s = (
                gap if demand.pace_s == 0.0 else demand.pace_s + PACE_WEIGHT * (gap - demand.pace_s)
            )
        demand.left_at = now
        held = self._workspaces[call.workspace] - call.inputs
        if held:
            self._workspaces[call.workspace] = held
        else:
            del self._workspaces[call.workspace]

    def _on_backlog(self, report: BacklogHeard, now: float) -> None:
        demand = self._demands.get(report.deployment_id)
        if demand is None:
            demand = self._demands[report.deployment_id] = _Demand(report.shard)
        total = max(0, report.queued) + max(0, report.in_flight)
        self._count_shard(demand, total)
        demand.others = max(0, total - demand.own)
        demand.unseen = 0
        demand.reported_at = now
        if total == 0 and demand.own == 0:
            self._drop(report.deployment_id)

    def _on_ticked(self, now: float) -> None:
        for deployment_id in list(self._demands):
            demand = self._demands[deployment_id]
            if now - max(demand.reported_at, demand.left_at) < REPORT_STALE_S:
                continue
            self._count_shard(demand, 0)
            demand.others = demand.unseen = 0
            if demand.own == 0:
                self._drop(deployment_id)

    def _count_shard(self, demand: _Demand, total: int) -> None:
        left = self._shards.get(demand.shard, 0) + total - demand.reported
        demand.reported = total
        if left:
            self._shards[demand.shard] = left
        else:
            self._shards.pop(demand.shard, None)

    def _drop(self, deployment_id: DeploymentId) -> None:
        demand = self._demands[deployment_id]
        self._count_shard(demand, 0)
        # The pace outlives an empty moment only through the next report: nothing is kept at rest.
        del self._demands[deployment_id]

    def check(self) -> None:
        """Raise InvariantError unless every invariant holds (O(state))."""
        own: dict[DeploymentId, int] = {}
        workspaces: dict[WorkspaceId, int] = {}
        for call in self._calls.values():
            own[call.deployment_id] = own.get(call.deployment_id, 0) + call.inputs
            workspaces[call.workspace] = workspaces.get(call.workspace, 0) + call.inputs
        _hold(workspaces == self._workspaces, "A1: workspaces")
        shards: dict[int, int] = {}
        for deployment_id, demand in self._demands.items():
            _hold(demand.own == own.pop(deployment_id, 0), f"A1: {deployment_id}")
            counts = (demand.own, demand.unseen, demand.others, demand.reported)
            _hold(min(counts) >= 0, f"A2: {deployment_id} {counts}")
            if demand.reported:
                shards[demand.shard] = shards.get(demand.shard, 0) + demand.reported
        _hold(not own, "A1: a call without its deployment")
        _hold(shards == self._shards, "A1: shards")


def _hold(truth: object, what: str) -> None:
    if not truth:
        raise InvariantError("platform.bug", f"admission: {what}")


def _refuse(
    call: CallOffered, limit: str, pending: int, bound: int, retry_after_s: float
) -> Refuse:
    return Refuse(
        invocation_id=call.invocation_id,
        limit=limit,
        pending=pending,
        bound=bound,
        retry_after_s=min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, retry_after_s)),
    )
