"""The campaign of faults; see README.md."""
