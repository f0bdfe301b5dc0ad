"""The lowest free minor and port, and MAC addresses, over all nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pmc.capacity import allocate
from pmc.errors import Refused
from pmc.model import ClusterState, Resource, ResourceFile
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, cluster, node


def with_minors(kernel: list[int], files: list[int]) -> ClusterState:
    return cluster(
        node("pm-1", resources={f"k{n}": Resource(f"k{n}", n) for n in kernel}),
        node("pm-2", files={f"f{n}": ResourceFile(f"f{n}", n, "", (), ()) for n in files}),
    )


@pytest.mark.parametrize(
    ("kernel", "files", "lowest"),
    [([], [], 1), ([1], [], 2), ([], [1], 2), ([1, 3], [2], 4), ([2], [3], 1), ([1, 3], [], 2), ([-1], [-1], 1)],
)
def test_minor(kernel: list[int], files: list[int], lowest: int) -> None:
    assert allocate.minor(with_minors(kernel, files)) == lowest


def with_ports(listening: set[int], files: set[int]) -> ClusterState:
    return cluster(
        node("pm-2", ports=frozenset(listening)),
        node("pm-3", files={"a": ResourceFile("a", 1, "", (), tuple(files))}),
    )


@pytest.mark.parametrize(
    ("listening", "files", "lowest"),
    [
        (set(), set(), 7800),
        ({22, 7800}, set(), 7801),
        (set(), {7800}, 7801),
        ({7801}, {7800}, 7802),
        ({7801}, set(), 7800),
    ],
)
def test_port(listening: set[int], files: set[int], lowest: int) -> None:
    assert allocate.port(with_ports(listening, files), SETTINGS) == lowest


def test_no_port_is_free() -> None:
    every = set(SETTINGS.port_range)
    with raises(Refused, "allocate.port", "ports = '7800-7809'"):
        allocate.port(with_ports(every - {7805}, {7805}), SETTINGS)


def chance(*numbers: int) -> Callable[[int], int]:
    """Not by chance at all."""
    given = iter(numbers)

    def draw(below: int) -> int:
        assert below == 1 << 16
        return next(given)

    return draw


TAKEN = cluster(node("pm-2", macs=frozenset({"52:54:00:77:03:07", "52:54:00:77:00:01"})))


def test_mac_of_an_address() -> None:
    assert allocate.mac(TAKEN, SETTINGS, "10.0.3.8", chance()) == "52:54:00:77:03:08"
    with raises(Refused, "allocate.mac", "--address 192.168.3.7", "52:54:00:77:03:07"):
        allocate.mac(TAKEN, SETTINGS, "192.168.3.7", chance())


def test_mac_without_an_address_is_one_that_is_free() -> None:
    assert allocate.mac(TAKEN, SETTINGS, "", chance(0x0307, 0x0001, 0xFFFE)) == "52:54:00:77:ff:fe"


def test_no_mac_is_free() -> None:
    with raises(Refused, "allocate.mac", "mac_prefix = '52:54:00:77'"):
        allocate.mac(TAKEN, SETTINGS, "", lambda below: 1)


def test_a_node_that_is_down_hides_what_it_has_so_add_refuses_earlier() -> None:
    """Allocation counts what it is shown; `add.check_new` sees to it that all nodes answer."""
    silent = replace(TAKEN.nodes["pm-2"], macs=frozenset(), down="no ssh")
    assert allocate.mac(cluster(silent), SETTINGS, "10.0.3.7", chance()) == "52:54:00:77:03:07"


def test_the_minors_of_further_volumes_are_taken() -> None:
    file = ResourceFile("old", 1, "/dev/vg/old", ("pm-1", "pm-2"), (7790,), (2,))
    up = Resource("new", 3, more_minors=(4,))
    assert allocate.minor(cluster(node("pm-1", files={"old": file}), node("pm-2", resources={"new": up}))) == 5
