"""The shell that every service runs in: bus, life cycle, leases, settings, health, tracing.

It knows no business word: no container, no placement. `bus_nats` is the only file of the platform
that imports the NATS client.
"""
