"""The command line. Commands are loaded when they are used, so that `--help` is quick."""
