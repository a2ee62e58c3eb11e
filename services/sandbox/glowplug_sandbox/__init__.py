"""The sandbox service: sessions that users drive step by step.

A sandbox is a container like any other: placement binds it, a worker runs it. This service owns the
*session*: its record in the `sandboxes` bucket, the wish for its container in `wanted`, its time to
live, and the way from a command to the worker that holds it. Any replica serves any session; what must
be done once is done under the lease `sandbox`. It never runs a process, and never lets a session be
used from another workspace.
"""
