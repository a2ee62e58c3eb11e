"""Pulls images from registries: the distribution protocol, as a client of our own.

`reference`, `challenge`, `manifests`, `platforms`, `endpoints` and `patience` decide without I/O; `asking`
speaks HTTP and logs in, `pulling` finds an image and brings its blobs. Nothing a registry says is
believed before its digest was checked, and nothing it sends is read without a bound.
"""
