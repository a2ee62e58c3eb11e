"""The way to the platform: everything that needs an HTTP library, loaded when first needed.

`loop` runs the client's own event loop; `session` holds what one program shares (profile, connection,
deployments, live output); the other modules each do one thing with it.
"""
