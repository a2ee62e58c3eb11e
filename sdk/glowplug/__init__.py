"""Glowplug."""
