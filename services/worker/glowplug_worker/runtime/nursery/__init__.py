"""Forks containers from templates: a small helper process of a worker run by root.

The worker speaks to it through `client.py`; everything else here runs in the helper, on the standard
library alone. See docs/adr/0006-templates.md for why it is safe to fork from a process that has run a
user's code.
"""
