"""Builds images and keeps their chunks, content-addressed.

`store.py` is the directory and `http.py` its door; `plan.py` and `build.py` decide what a build does,
`running.py` does it and `service.py` connects it to the bus. The README has the role card.
"""
