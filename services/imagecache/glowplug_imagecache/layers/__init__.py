"""Reads an image's layers into one tree of entries, and never writes a file of theirs by its name.

`headers`, `pax`, `sparse` and `tar` read archives, `members` says what may be in an image, `tree` lays one
layer over another, and `bounds` counts: all of them without I/O. `reading` opens the files and hashes.
"""
