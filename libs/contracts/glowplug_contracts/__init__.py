"""The words the services speak, and nothing else.

Everything that crosses a process boundary is declared here: message types, the subjects they travel
on, the streams and buckets that keep them, ids, and the errors a caller may see. This package does no
I/O, reads no clock and imports only msgspec, so that any room may import it.
"""
