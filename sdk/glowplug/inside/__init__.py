"""The client's lower half inside a container: the same requests, through the runner's door.

Standard library only. `http` stands where `glowplug.client.http` stands outside, `session` where the
program's session does; everything above (`glowplug.client.calls`, `durable`, maps, queues) is the same code.
"""
