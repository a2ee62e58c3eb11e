"""Backends: the ways in which a worker isolates a container, behind `ports.Backend`.

Privileged code lives here and only here: processes, user ids, mounts, system-call filters. Nothing in
this package knows an invocation, an image or the broker.
"""
