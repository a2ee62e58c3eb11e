"""The autoscaler: how many containers each deployment should have, and why.

Fourth step of an invocation's journey. It hears what waits (BacklogChanged), what is deployed (the
`deployments` bucket) and what became of containers, and appends targets (ScaleDecided) that placement
follows. One replica decides, under the lease `autoscaler`; the others wait. It never places work,
never starts or stops a container, and remembers nothing that it can't hear or read again.
"""
