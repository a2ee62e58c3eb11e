"""Weights: what brings them here, stores them as trees, and keeps their records."""
