"""The only code of ours inside a container: loads the user's function and runs it for the worker.

`boot.py` is executed by the container's own interpreter with `-I -S`, so everything here is standard
library only, imports lazily (a start may cost ≤ 25 ms over an empty interpreter) and runs on Python
3.9 to 3.14. The journey: boot → frames/channel (the worker's socket) → function or session mode.
It never imports a service, never opens a network connection and holds no credential.
"""
