"""Accepting durable work: what the caller said about it becomes its record, stored before the answer.

Every door that accepts durable work comes through here. The record is the truth; an idempotency key is
an entry of its own, made by compare-and-set before the record, that says which invocation the key stands
for. Whoever comes second to a key, or again after a crash in between, goes on with that invocation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from glowplug_contracts.errors import ConflictError, InvalidRequestError, PlatformError
from glowplug_contracts.ids import InvocationId, check_id, derived
from glowplug_contracts.messages.deployment import Deployment, DeploymentSpec
from glowplug_contracts.messages.http import PutItem, PutOptions
from glowplug_contracts.messages.invocation import Format, Input, Payload
from glowplug_contracts.messages.record import IdempotentPut, InvocationRecord, KeyLimit
from glowplug_contracts.streams import IDEMPOTENCY
from glowplug_contracts.subjects import shard_of

from glowplug_gateway.admission import CallOffered
from glowplug_gateway.calls import Calls
from glowplug_gateway.ephemeral import DEAD_LETTER_KINDS
from glowplug_gateway.inputs import invalid
from glowplug_gateway.ports import Platform
from glowplug_gateway.put_options import check_options
from glowplug_gateway.records import Records
from glowplug_gateway.work import BLOB_WAIT_S_MAX

CLAIM_TRIES_MAX = 20


class Intake:
    """See the module."""

    def __init__(self, platform: Platform, calls: Calls, records: Records) -> None:
        self._platform = platform
        self._calls = calls
        self._records = records

    async def accept(
        self,
        deployment: Deployment,
        call_id: InvocationId,
        args: Payload,
        options: PutOptions,
        trace: str,
        *,
        headers: Mapping[str, str] | None = None,
        scheduled_for: float = 0.0,
    ) -> InvocationRecord:
        """Store durable work; return its record, or the one that was made before for the same.

        Raises: InvalidRequestError; QuotaExceededError or OverloadedError (full); ConflictError (the id
            or the idempotency key stands for other work); UnavailableError.
        """
        self._calls.admit(offered(self._platform, deployment, call_id))
        record = new_record(
            deployment, call_id, args, options, trace, self._platform.clock.unix(), headers or {}
        )
        record = msgspec.structs.replace(record, scheduled_for=scheduled_for)
        if not options.idempotency_key:
            return await self._records.accept(record)
        claim = await self._claim(deployment, record, options)
        record = msgspec.structs.replace(
            record, invocation_id=claim.invocation_id, idempotent_until=claim.until
        )
        return await self._records.accept(record)

    async def accept_many(
        self, deployment: Deployment, puts: Sequence[PutItem], trace: str
    ) -> Sequence[InvocationRecord | PlatformError]:
        """Store much durable work together; return for each what `accept` returns or raises."""
        records: list[InvocationRecord] = []
        refused: dict[int, PlatformError] = {}
        for place, put in enumerate(puts):
            try:
                records.append(await self._new(deployment, put, trace))
            except PlatformError as error:
                refused[place] = error
        stored = iter(await self._records.accept_many(records))
        return [refused[place] if place in refused else next(stored) for place in range(len(puts))]

    async def _new(self, deployment: Deployment, put: PutItem, trace: str) -> InvocationRecord:
        check_id("invocation", put.invocation_id)
        check_options(put.options)
        self._calls.admit(offered(self._platform, deployment, put.invocation_id))
        record = new_record(
            deployment,
            put.invocation_id,
            put.args,
            put.options,
            trace,
            self._platform.clock.unix(),
            {},
        )
        if not put.options.idempotency_key:
            return record
        claim = await self._claim(deployment, record, put.options)
        return msgspec.structs.replace(
            record, invocation_id=claim.invocation_id, idempotent_until=claim.until
        )

    async def _claim(
        self, deployment: Deployment, record: InvocationRecord, options: PutOptions
    ) -> IdempotentPut:
        """Return which invocation the key stands for: the caller's, if it stood for none."""
        bucket = self._platform.bus.bucket(IDEMPOTENCY)
        hashed = derived(
            deployment.workspace, "idempotency", f"{deployment.spec.name}/{options.idempotency_key}"
        )
        key = f"{deployment.workspace}.{hashed}"
        mine = IdempotentPut(
            invocation_id=record.invocation_id,
            fingerprint=options.fingerprint or fingerprint(record.input.args),
            until=record.idempotent_until,
        )
        for _ in range(CLAIM_TRIES_MAX):
            found = await bucket.get(key)
            try:
                if found is None or found.value is None:
                    await bucket.create(key, mine)
                    return mine
                if found.value.until <= self._platform.clock.unix():
                    await bucket.update(key, mine, found.revision)
                    return mine
            except ConflictError:
                continue  # another put with this key was first
            if found.value.fingerprint != mine.fingerprint:
                raise ConflictError(
                    "invocation.key_reused",
                    f"the idempotency key {options.idempotency_key!r} of {deployment.spec.name} stands "
                    f"for {found.value.invocation_id}, which has other arguments; use a new key",
                    details={"task_id": found.value.invocation_id},
                )
            return found.value
        raise ConflictError(
            "invocation.conflict", "the idempotency key changes too fast; try again"
        )


def offered(platform: Platform, deployment: Deployment, call_id: InvocationId) -> CallOffered:
    """Return durable work as admission is asked about it."""
    return CallOffered(
        invocation_id=call_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        shard=shard_of(deployment.workspace, platform.shards),
        max_pending=deployment.spec.max_pending,
        held=False,
    )


def new_record(
    deployment: Deployment,
    call_id: InvocationId,
    args: Payload,
    options: PutOptions,
    trace: str,
    unix: float,
    headers: Mapping[str, str],
) -> InvocationRecord:
    """Return the record of new work. `options` are checked. Raises: InvalidRequestError."""
    spec = deployment.spec
    if spec.is_generator:
        raise InvalidRequestError(
            "request.invalid", f"{spec.name} is a generator: its items need a caller that waits"
        )
    due_at = unix + options.delay_s if options.delay_s else (options.eta or 0.0)
    if args.blob is not None and due_at - unix > BLOB_WAIT_S_MAX:
        days = round(BLOB_WAIT_S_MAX / 86_400)
        raise invalid({"options.eta": f"large arguments are kept {days} days; come nearer"})
    keep = options.keep_result_s
    callback_url = options.callback_url
    return InvocationRecord(
        invocation_id=call_id,
        workspace=deployment.workspace,
        deployment_id=deployment.deployment_id,
        input=Input(args=args),
        priority=spec.priority if options.priority is None else options.priority,
        timeout_s=spec.timeout_s if options.timeout_s is None else options.timeout_s,
        retry=spec.retry,
        accepted_at=unix,
        due_at=due_at,
        expires_at=_expires_at(spec, args, options, max(unix, due_at)),
        keep_result_s=spec.keep_result_s if keep is None else keep,
        trace=trace,
        name=spec.name,
        app=spec.app,
        parent=options.parent,
        tags=options.tags,
        headers=dict(headers),
        idempotency_key=options.idempotency_key,
        idempotent_until=unix + options.idempotency_window_s if options.idempotency_key else 0.0,
        key=_key_limit(spec, options),
        rate=spec.rate,
        callback_url=spec.callback_url if callback_url is None else callback_url,
        dead_letter=spec.kind in DEAD_LETTER_KINDS and spec.dead_letter_keep_s > 0,
        dead_letter_keep_s=spec.dead_letter_keep_s,
    )


def _expires_at(
    spec: DeploymentSpec, args: Payload, options: PutOptions, from_unix: float
) -> float:
    """Return when work that has not started expires, 0 for never.

    Large arguments are leased, never kept for ever: work that has some expires at last.
    """
    wait_s = spec.expires_s if options.ttl_s is None else options.ttl_s
    if args.blob is not None:
        wait_s = min(wait_s, BLOB_WAIT_S_MAX) if wait_s > 0 else BLOB_WAIT_S_MAX
    return from_unix + wait_s if wait_s > 0 else 0.0


def _key_limit(spec: DeploymentSpec, options: PutOptions) -> KeyLimit:
    if options.fifo_key:
        return KeyLimit(key=f"{spec.name}/fifo/{options.fifo_key}", limit=1, ordered=True)
    if options.concurrency_key:
        key = f"{spec.name}/{options.concurrency_key}"
        return KeyLimit(key=key, limit=options.concurrency_limit)
    return KeyLimit()


def fingerprint(args: Payload) -> str:
    """Return what arguments are, in a word: JSON whatever its spacing and order of members."""
    data = args.data if args.data is not None else (args.blob or "").encode()
    if args.format is Format.JSON and args.data is not None:
        data = msgspec.json.encode(msgspec.json.decode(data), order="sorted")
    return hashlib.blake2b(data, digest_size=16).hexdigest()
