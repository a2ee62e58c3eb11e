"""The GPUs of this host: what NVML finds, what it says of them, and what a container is given of them.

`nvml.py` asks the driver (the only file that does), `health.py` decides what breaks a device, `cdi.py` and
`grants.py` say which nodes, files and variables a container gets, `watch.py` keeps it all and is asked.
"""
