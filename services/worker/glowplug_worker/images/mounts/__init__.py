"""Trees mounted before their content is here: EROFS over two sparse files that are filled while they are read.

Three processes keep one promise: what is read is what the tree names, or an error. `holder/` owns what the
kernel asks (standard library only, so small that it need not be restarted), `daemon/` fetches, verifies and writes,
and the worker (`lazy.py`) makes and unmakes mounts and starts the other two. What they decide is in `holding.py`
and `filling.py`; docs/erofs.md says how it goes together.
"""
