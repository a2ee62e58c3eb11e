"""Attempts to get out of a container or to harm its host: plain functions, standard library only.

They run inside (`inside.py` is the loop there) and, as their positive control, in a plain process without
a sandbox. So each is harmless where it works: it writes back what it read, opens without writing, or asks
with an argument that the kernel refuses after the permission check.
"""
