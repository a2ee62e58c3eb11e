"""The platform on one machine: an embedded broker and the six services as child processes.

It starts commands and watches them; it imports no service. The CLI finds it through the entry point
`glowplug.commands`.
"""
