"""Changed bytes for everything that reads what strangers send: an engine, and the readers."""
