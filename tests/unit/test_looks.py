"""What is asked after the state is known: here what virt-install is told of a new VM."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pmc import looks
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.plans.request import Add
from pmc.units import GiB
from tests.unit.samples import SETTINGS, XML
from tests.unit.stories import ISO, WEB, wanted


class Asked:
    """In place of a cluster: its nodes have no CPU in common to name, and virt-install answers with `xml`."""

    settings = SETTINGS

    def __init__(self, xml: str = XML) -> None:
        self.xml, self.argv = xml, tuple[str, ...]()

    def on_all(self, work: object, names: object) -> list[str]:
        return ["", ""]

    def ask(self, node: str, query: Any) -> list[str]:
        self.argv = query.command.argv
        return [self.xml]


def boot(request: Add) -> str:
    asked = Asked()
    looks.new_domain(cast(Cluster, asked), request, WEB)
    return asked.argv[asked.argv.index("--boot") + 1] if "--boot" in asked.argv else ""


def test_the_disk_is_booted_first_and_then_what_fills_an_empty_one() -> None:
    assert boot(wanted()) == ""
    assert boot(wanted(iso=ISO)) == "hd,cdrom"
    assert boot(wanted(pxe=True)) == "hd,network"


def test_virt_install_is_told_what_was_asked_for_and_its_further_arguments_last() -> None:
    asked = Asked()
    looks.new_domain(cast(Cluster, asked), wanted(memory=2 * GiB, cpus=3, virt_install="--tpm 'a b'"), WEB)
    line = " ".join(asked.argv)
    for words in ("--name web", "--memory 2048", "--vcpus 3", f"bridge=br0,mac={WEB.mac},model=virtio", "--dry-run"):
        assert words in line
    assert asked.argv[-2:] == ("--tpm", "a b")


def test_arguments_that_make_another_vm_are_refused() -> None:
    with pytest.raises(Refused, match="--virt-install: virt-install did not answer with a domain web"):
        looks.new_domain(cast(Cluster, Asked(XML.replace("web", "mail"))), wanted(virt_install="--name mail"), WEB)
