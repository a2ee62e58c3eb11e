"""Whatever workers do: who lied is not asked again, who failed not soon, and if anybody is left somebody is asked."""

from __future__ import annotations

from glowplug_worker.images.peers.choice import PASSED_OVER_S, PeerChoice
from hypothesis import given
from hypothesis import strategies as st

URLS = [f"http://w{number}" for number in range(4)]
STEPS = st.tuples(
    st.sampled_from(["told", "failed", "lied"]),
    st.sets(st.sampled_from(URLS)),
    st.floats(0.0, PASSED_OVER_S),
)


@given(st.lists(STEPS, max_size=20), st.text(max_size=5))
def test_whoever_is_left_is_asked_and_nobody_else(
    steps: list[tuple[str, set[str], float]], name: str
) -> None:
    choice, now = PeerChoice(), 0.0
    told: set[str] = set()
    lied: set[str] = set()
    failed: dict[str, float] = {}
    for what, urls, passes in steps:
        now += passes
        if what == "told":
            told = urls
            choice.told(sorted(urls))
        for url in urls if what == "failed" else ():
            failed[url] = now
            choice.failed(url, now)
        for url in urls if what == "lied" else ():
            lied.add(url)
            choice.lied(url)
        late = {url for url, at in failed.items() if now < at + PASSED_OVER_S}
        left = told - lied - late
        chosen = choice.choose(name, now)
        assert chosen in left if left else chosen is None
