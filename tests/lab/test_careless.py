"""What careless people type, and nodes that are not as they should be: one clear line, status 2, nothing touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import witness

from .conftest import Pmc, things

Clean = Callable[[], list[str]]
GOOD = ("--primary", "pm-1", "--secondary", "pm-2", "--size", "64M", "--memory", "16M")


def refused(lab: Pmc, *argv: str, says: str) -> None:
    done = lab.fab(*argv)
    assert done.returncode == 2, f"{argv}: {done.returncode} {done.stderr}"
    assert says in done.stderr, f"{argv}: {done.stderr}"
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_careless_lines(lab: Pmc, clean: Clean) -> None:
    lab.add("web")
    before = clean()
    refused(lab, "vm.add", "new", "--primary", "pm-9", "--size", "64M", "--memory", "16M", says="--primary 'pm-9'")
    refused(lab, "vm.add", "Web_1", *GOOD, says="'Web_1'")
    refused(lab, "vm.add", "web;reboot", *GOOD, says="web;reboot")
    refused(lab, "vm.add", "all", *GOOD, says="'all'")
    refused(lab, "vm.add", "web", *GOOD, says="there is such a VM already")
    refused(lab, "vm.add", "new", "--primary", "pm-1", "--size", "0", "--memory", "16M", says="--size")
    refused(lab, "vm.add", "new", *GOOD, "--iso", "nonesuch", says="--iso 'nonesuch'")
    refused(
        lab, "vm.add", "new", "--primary", "pm-1", "--secondary", "pm-1", "--size", "1", "--memory", "1", says="pm-1"
    )
    refused(lab, "vm.add", "new", "--primary", "pm-1", "--size", "900G", "--memory", "16M", says="--size: pm-1 has")
    refused(lab, "vm.add", "new", "--primary", "pm-1", "--size", "64M", "--memory", "900", says="--memory")
    refused(lab, "vm.add", "--primary", "pm-1", "--size", "64M", "--memory", "16M", says="VM's name is a-z")
    refused(lab, "vm.start", "web", says="runs already, on pm-1")
    refused(lab, "vm.mv", "nonesuch", says="no such VM; there are: web")
    refused(lab, "vm.mv", "web", "--to", "pm-1", says="--to pm-1")
    refused(lab, "vm.rm", "web", says="--yes")
    refused(lab, "vm.restore", "web", "--backup", "../../etc/passwd", "--as", "new", says="--backup")
    refused(lab, "vm.stop", "web", "--frce", says="--frce")
    refused(lab, "-H", "pm-1", "vm.ls", says="-H")
    assert clean() == before


def test_a_strange_volume_is_not_touched(lab: Pmc) -> None:
    lab.ssh("pm-1", "lvcreate -qq -y -L 8M -n data vg")
    try:
        refused(lab, "vm.rm", "data", "--yes", says="was not made by pmc")
        refused(lab, "vm.add", "data", *GOOD, says="has a volume vg/data already")
        assert "data" in lab.ssh("pm-1", "lvs --noheadings -o lv_name vg")
    finally:
        lab.ssh("pm-1", "lvremove -qq -y vg/data")
    assert things(lab.state()) == []


def with_conf(lab: Pmc, folder: Path, text: str, *argv: str) -> subprocess.CompletedProcess[str]:
    conf = folder / "pmc.conf"
    conf.write_text(text)
    return lab.fab(*argv, "--conf", str(conf))


def test_a_dead_node_is_a_row(lab: Pmc, tmp_path: Path) -> None:
    text = lab.conf.read_text() + '[nodes.pm-9]\nreplication = "10.77.0.9"\nhost = "127.0.0.1"\n'
    done = with_conf(lab, tmp_path, text, "pm.ls")
    assert done.returncode == 1
    assert "pm-9    down" in done.stdout
    assert "pm-1    up" in done.stdout
    done = with_conf(lab, tmp_path, text, "vm.add", "new", *GOOD)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pm-9: ")
    assert len(done.stderr.splitlines()) == 1


def test_unknown_and_changed_host_keys_are_refused(lab: Pmc, tmp_path: Path) -> None:
    conf = lab.conf.read_text()
    ssh_config = lab.conf.parent / "ssh_config"
    known = (lab.conf.parent / "known_hosts").read_text()
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    other = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    changed = "".join(f"{line.split()[0]} {other}\n" for line in known.splitlines())
    for content, says in (("", "host key is not known"), (changed, "host key is not the one known")):
        (tmp_path / "known_hosts").write_text(content)
        mine = ssh_config.read_text().replace(str(lab.conf.parent / "known_hosts"), str(tmp_path / "known_hosts"))
        (tmp_path / "ssh_config").write_text(mine)
        text = conf.replace(str(ssh_config), str(tmp_path / "ssh_config"))
        done = with_conf(lab, tmp_path, text, "vm.stop", "web")
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "known_hosts").read_text() == changed


@pytest.mark.long
def test_as_a_user_with_sudo_and_from_another_folder(lab: Pmc, tmp_path: Path, clean: Clean) -> None:
    mine = (lab.conf.parent / "ssh_config").read_text().replace("User root", "User admin")
    (tmp_path / "ssh_config").write_text(mine)
    conf = tmp_path / "pmc.conf"
    conf.write_text(lab.conf.read_text().replace(str(lab.conf.parent / "ssh_config"), str(tmp_path / "ssh_config")))
    pmc = str(Path(sys.executable).parent / "pmc")

    def run(*argv: str) -> str:
        environment = {**os.environ, "PMC_CONF": str(conf)}
        done = subprocess.run(
            [pmc, *argv], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("vm.add", "web", *GOOD, "--image", str(lab.tick_image))
    guest = witness.Guest(lab.lab, "web")
    tick = guest.ticking(5)
    run("vm.mv", "web", "vm.backup", "web")
    assert guest.ticking(tick.counter).boots == 1
    assert "running" in run("vm.ls")
