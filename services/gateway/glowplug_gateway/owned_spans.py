"""Whose spans are whose: what a workspace is shown of a trace. Pure.

A trace may go through several workspaces' hands, since a caller may name any trace as the one it goes on
with. Shown is what the gateway did for the workspace, what is about its own deployments, and everything
below these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from glowplug_contracts.messages.trace import Span

WORKSPACE = "workspace"
DEPLOYMENT = "deployment_id"


def owned_spans(spans: Sequence[Span], workspace: str, deployments: Collection[str]) -> list[Span]:
    """Return the spans that a workspace may see, in their order; `deployments` are its own ids."""
    by_id = {span.span_id: span for span in spans}
    known: dict[str, bool] = {}

    def says(span: Span) -> bool | None:
        """Return whether it is the workspace's; None: what is above it tells.

        A deployment that is not among its own may be its own and deleted.
        """
        if WORKSPACE in span.attributes:
            return span.attributes[WORKSPACE] == workspace
        return span.attributes.get(DEPLOYMENT) in deployments or None

    for span in spans:
        way: list[str] = []
        at: Span | None = span
        own: bool | None = None
        while at is not None and at.span_id not in way:
            own = known.get(at.span_id, says(at))
            if own is not None:
                break
            way.append(at.span_id)
            at = by_id.get(at.parent_id)
        known.update(dict.fromkeys([span.span_id, *way], bool(own)))
    return [span for span in spans if known[span.span_id]]
