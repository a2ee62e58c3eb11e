"""Dockerfiles as chains of build steps: `read_dockerfile` in `reading.py`."""
