"""The HTTP door: authenticates, validates, admits, answers. README.md is its role card."""
