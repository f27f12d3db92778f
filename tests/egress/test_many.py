"""Many at once, while the hub swaps the configuration and registers instances anew: nothing is lost or mixed up."""

import threading
from collections import Counter

from tests.egress.places import Agent, Place, entry_of, provider
from tests.fakes.messages_api import MessagesApi

CALLERS, ASKED = 12, 20


def test_each_request_is_answered_and_counted_once_through_swaps_and_registrations(
    place: Place, api: MessagesApi
) -> None:
    place.configure(limits={"parallel": 100})
    tokens = {f"many{n}-0": f"{n:02}" * 21 for n in range(4)}
    agents = {name: place.register(name, token=token) for name, token in tokens.items()}
    statuses: Counter[int] = Counter()
    over = threading.Event()

    def ask(agent: Agent) -> None:
        found = Counter(agent.ask(stream=bool(n % 2)).status for n in range(ASKED))
        statuses.update(found)

    def disturb() -> None:
        for n in range(10_000):
            if over.is_set():
                return
            place.configure(providers={"anthropic": provider(api.url, key_file=None)}, limits={"parallel": 100 + n % 2})
            for name, token in tokens.items():
                place.link.put_instance(name, entry_of(name, token=token, digest=f"e{n}"))

    threads = [threading.Thread(target=ask, args=(agents[f"many{n % 4}-0"],)) for n in range(CALLERS)]
    disturbing = threading.Thread(target=disturb)
    for thread in (disturbing, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    disturbing.join()
    assert statuses == {200: CALLERS * ASKED}
    assert len(place.rows(CALLERS * ASKED)) == CALLERS * ASKED == len(api.asked)
    instances = place.state()["instances"]
    assert [instances[name]["under_way"] for name in tokens] == [0] * 4
    assert "Traceback" not in place.log
