"""Networks of containers: a namespace each, joined by veth to a router namespace of the worker's.

    container ─eth0──i7─ router ─up──gp1a2b…─ host ── internet

The router is a network namespace that nothing but this worker's descriptors holds, so it goes with the
worker, however that ends, and all rules in it. What the host itself must do (forward, masquerade, refuse)
is one small table named after the worker (`host.py`), removed at its end or by the next one's sweep.

    rules.py     what may pass, as rule sets for `nft`; pure
    dns.py       questions and answers of the domain name system; pure
    nft.py       hands rule sets to `nft`
    netlink.py   links, addresses, routes, elements of sets
    host.py      what is changed on the host, written down and undone
    router.py    the router, and the namespaces made ready for containers
    resolver.py  answers containers' questions for names, as far as these may reach them
    own.py       all of it together (`ports.Networks`)
"""
