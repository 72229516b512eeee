"""Processes agree on the step after which all stop; here, threads with one store take the place of processes."""

import threading

import pytest

from jaxhand.training import common_stop
from jaxhand.training.common_stop import CommonStop

SECONDS = 20  # until a test gives up


class Store:
    """JAX's store of keys and values for so many processes."""

    def __init__(self, processes):
        self.values, self.barrier = {}, threading.Barrier(processes)

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.values.items()) if key.startswith(folder)]

    def wait_at_barrier(self, name, milliseconds):
        self.barrier.wait(milliseconds / 1000)


@pytest.mark.parametrize("ahead", [0, 3])
def test_all_stop_after_the_same_step(ahead, monkeypatch):
    """Also if one has finished more steps than the other when the signal comes."""
    monkeypatch.setattr(common_stop, "_LOOK_S", 0.01)
    store = Store(2)
    one, two = (CommonStop(store, index) for index in (0, 1))
    assert not any(one.reached() for _ in range(5 + ahead)) and not any(two.reached() for _ in range(5))
    agreeing = [threading.Thread(target=each._agree, daemon=True) for each in (one, two)]
    one._wanted.set()
    for thread in agreeing:
        thread.start()
    for thread in agreeing:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert one.reached()
    assert [two.reached() for _ in range(ahead + 1)] == [False] * ahead + [True]


def test_no_step_ends_while_they_agree(monkeypatch):
    store = Store(2)
    one = CommonStop(store, 0)
    one._wanted.set()
    threading.Thread(target=one._agree, daemon=True).start()
    found, tried = [], threading.Event()
    while not store.key_value_dir_get("jaxhand/stop/at/"):
        tried.wait(0.01)
    stepping = threading.Thread(target=lambda: found.append(one.reached()), daemon=True)
    stepping.start()
    stepping.join(0.2)
    assert found == []
    store.values["jaxhand/stop/at/1"] = "4"
    store.barrier.wait(SECONDS)
    stepping.join(SECONDS)
    assert found == [False] and [one.reached() for _ in range(4)] == [False, False, False, True]


def test_a_store_that_is_gone_ends_nothing():
    one = CommonStop(None, 0)
    one._wanted.set()
    one._agree()
    assert not one.reached()
