"""What is asked after the state is known: here what virt-install is told of a new VM."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from invoke.config import Config
from invoke.context import Context

from pmc.cluster import Cluster
from pmc.command import Query, command
from pmc.errors import PmcError, Refused
from pmc.plans.request import Add
from pmc.settings import Settings
from pmc.tasks import lookups, ns
from pmc.units import GiB
from tests.unit.counted import counted
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML
from tests.unit.stories import ISO, WEB, wanted, with_web


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
    lookups.new_domain(cast(Cluster, asked), request, WEB)
    return asked.argv[asked.argv.index("--boot") + 1] if "--boot" in asked.argv else ""


def test_the_disk_is_booted_first_and_then_what_fills_an_empty_one() -> None:
    assert boot(wanted()) == ""
    assert boot(wanted(iso=ISO)) == "hd,cdrom"
    assert boot(wanted(pxe=True)) == "hd,network"


def test_virt_install_is_told_what_was_asked_for_and_its_further_arguments_last() -> None:
    asked = Asked()
    lookups.new_domain(cast(Cluster, asked), wanted(memory=2 * GiB, cpus=3, virt_install="--tpm 'a b'"), WEB)
    line = " ".join(asked.argv)
    for words in ("--name web", "--memory 2048", "--vcpus 3", f"bridge=br0,mac={WEB.mac},model=virtio", "--dry-run"):
        assert words in line
    assert asked.argv[-2:] == ("--tpm", "a b")


def test_an_address_by_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A resolver that does not answer is given up, and told: the MAC address would have come of it."""
    over = threading.Event()

    def resolve(name: str) -> str:
        if name == "silent":
            over.wait(60)
        if name == "nobody":
            raise OSError("Name or service not known")
        return "192.0.2.7"

    monkeypatch.setattr("socket.gethostbyname", resolve)
    hasty = replace(SETTINGS, deadlines=replace(SETTINGS.deadlines, connect=0.1))
    assert lookups.address_of("web", SETTINGS) == "192.0.2.7"
    assert lookups.address_of("nobody", SETTINGS) == ""
    assert capsys.readouterr().err == ""
    assert lookups.address_of("silent", hasty) == ""
    over.set()
    assert "silent: DNS does not say within 0.1 s whether" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("vm.add", {"name": "new", "size": "1G", "memory": "1G"}),
        ("vm.restore", {"name": "web", "as_": "new", "backup": "x"}),
    ],
)
def test_dns_is_asked_before_anybody_must_wait_for_a_lock(
    task: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = counted(monkeypatch, with_web())
    asked = list[str]()

    def address_of(name: str, settings: Settings) -> str:
        assert cluster.locked == []
        asked.append(name)
        return ""

    monkeypatch.setattr(lookups, "address_of", address_of)
    with suppress(PmcError):  # what follows is of no interest here
        ns[task](Context(Config()), **given)
    assert asked == ["new"]


def test_a_directory_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "LISTED", 0.1)
    monkeypatch.setattr("pmc.backup.listing", lambda *args: Query(command("sleep", "600"), str))
    with raises(Refused, "lookups.kept", "no end of its listing within 0.1 s"):
        lookups.kept(str(tmp_path))


def test_arguments_that_make_another_vm_are_refused() -> None:
    with raises(Refused, "lookups.new_domain", "--virt-install", "web"):
        lookups.new_domain(cast(Cluster, Asked(XML.replace("web", "mail"))), wanted(virt_install="--name mail"), WEB)
