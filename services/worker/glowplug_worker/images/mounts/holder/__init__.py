"""Owns what the kernel asks about lazy mounts: a small process that outlives the daemon, and its worker's death.

fanotify fails open: when a group's last owner is gone, readers get zeros. So this process ends only when nobody
can read any more. It is started as `python -I -S …/mounts/holder`; `lazy.py` speaks to it.
"""
