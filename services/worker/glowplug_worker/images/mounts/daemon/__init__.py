"""Fetches, verifies and writes what readers of lazy mounts wait for: a process that may die and come back.

It keeps nothing that it could not find out again: after a restart, what is in the files is hashed before it counts.
`lazy.py` starts it and speaks to it.
"""
