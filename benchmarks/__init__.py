"""Promises about speed: one file each, both sides measured in the same run."""
