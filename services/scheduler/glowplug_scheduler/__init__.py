"""The scheduler service: dispatches invocations to slots, and places containers on workers.

Two pure machines, `dispatch.Dispatcher` (one per shard) and `place.Placement`, decide; the shells
`dispatching.ShardOwner` and `placing.PlacementShell` hear and do. See README.md.
"""
