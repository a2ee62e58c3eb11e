"""Containers of builds that may change their root: an overlay over an image's tree, and root inside."""
