"""Starts containers' first processes: a small helper process of a worker.

A worker is large, and forking it takes as long as all that its child does until `exec`. The worker speaks to
the helper through `client.py`; the rest runs in the helper, on the standard library alone.
"""
