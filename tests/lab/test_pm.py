"""pm.init and pm.ready_drbd on real nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pmc.cluster import Cluster
from pmc.command import bash
from pmc.health.node_checks import CHECKS
from pmc.settings import load

from .conftest import Pmc

Clean = Callable[[], list[str]]
BACKUPS = "/var/lib/pmc/backups"


@contextmanager
def broken(lab: Pmc, node: str, how: str, fix: str) -> Iterator[None]:
    lab.ssh(node, how)
    try:
        yield
    finally:
        lab.ssh(node, fix)


def test_a_fixed_node_passes_and_fixing_it_again_does_nothing(lab: Pmc) -> None:
    text = lab.ok("pm.init", "all")
    assert text.count("✓") == 2 * (len(CHECKS) + 2)
    assert "✗" not in text
    done = lab.fab("pm.init", "pm-1", "--fix")
    assert done.returncode == 0
    assert "[1/" not in done.stderr
    assert lab.fab("pm.init", "pm-1", "--fix", "--dry-run").stdout == "# pm.init --fix: 0 steps\n"


def test_json_tells_each_check(lab: Pmc) -> None:
    rows = json.loads(lab.ok("pm.init", "pm-2", "--json"))
    assert {row["node"] for row in rows} == {"pm-2"}
    assert [row["check"] for row in rows] == [*(check.name for check in CHECKS), "login script", "ssh with pm-1"]
    assert all(row["ok"] for row in rows)


def test_a_dry_run_of_a_fix_touches_nothing(lab: Pmc) -> None:
    lab.ssh("pm-1", f"chmod 755 {BACKUPS}; mv /root/.ssh/known_hosts /root/.ssh/away")
    before = lab.ssh("pm-1", f"stat -c %a {BACKUPS}; md5sum /root/.ssh/*")
    done = lab.fab("pm.init", "pm-1", "--fix", "--dry-run")
    assert done.returncode == 0
    assert f" -- chmod 00700 {BACKUPS}\n" in done.stdout
    assert "let it know the host keys of pm-2" in done.stdout
    assert lab.ssh("pm-1", f"stat -c %a {BACKUPS}; md5sum /root/.ssh/*") == before
    failed = lab.fab("pm.init", "pm-1")
    assert failed.returncode == 1
    assert failed.stdout.count("✗") == 2
    assert "Next: fab pm.init pm-1 --fix" in failed.stdout
    lab.ok("pm.init", "pm-1", "--fix")
    lab.ssh("pm-1", "rm /root/.ssh/away")


def test_a_changed_host_key_is_told_and_never_replaced(lab: Pmc) -> None:
    swap = "cd /root/.ssh; cp -p known_hosts away; sed -i -E 's/(AAAAC3NzaC1lZDI1NTE5AAAAI)..../\\1AAAA/' known_hosts"
    with broken(lab, "pm-1", swap, "cd /root/.ssh; mv away known_hosts"):
        before = lab.ssh("pm-1", "md5sum /root/.ssh/known_hosts")
        done = lab.fab("pm.init", "pm-1", "--fix")
        assert done.returncode == 1
        assert "another host key of 10.77.0.2" in done.stdout
        assert lab.ssh("pm-1", "md5sum /root/.ssh/known_hosts") == before
    lab.ok("pm.init", "pm-1")


def test_a_nodes_key_lets_in_from_that_node_only(lab: Pmc, tmp_path: Path) -> None:
    """A copy of it, as on a disk that was replaced, is worth nothing elsewhere: here the manager has one."""
    copy, reached = tmp_path / "key", lab.lab.conf()
    copy.write_text(lab.ssh("pm-1", "cat /root/.ssh/id_ed25519"))
    copy.chmod(0o600)
    theirs = tmp_path / "ssh_config"
    theirs.write_text(reached.ssh.read_text().replace(str(reached.key), str(copy)))

    def lets_in() -> bool:
        done = subprocess.run(
            ["ssh", "-F", theirs, "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "pm-2", "true"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
        return done.returncode == 0

    file = "/root/.ssh/authorized_keys"
    assert lab.ssh("pm-2", f"grep pmc-pm-1 {file}").startswith('restrict,from="10.77.0.1" ssh-ed25519 ')
    assert not lets_in()
    # As pmc wrote it once.
    lab.ssh("pm-2", f"cp -p {file} {file}.away; sed -i '/ pmc-pm-1$/s/^restrict,from=[^ ]* //' {file}")
    try:
        assert lets_in()
        found = lab.fab("pm.init", "pm-2")
        assert found.returncode == 1
        assert "pm-2 lets the key of pm-1 in from more than its addresses, or for more than commands" in found.stdout
        lab.ok("pm.init", "pm-2", "--fix")
        assert not lets_in()
        assert lab.ssh("pm-2", f"sort {file} | md5sum") == lab.ssh("pm-2", f"sort {file}.away | md5sum")
        assert lab.ssh("pm-2", f"stat -c '%a %U' {file}") == lab.ssh("pm-2", f"stat -c '%a %U' {file}.away")
    finally:
        lab.ssh("pm-2", f"mv {file}.away {file}")
    # What migrations and backups need is a command; a terminal is refused.
    assert lab.ssh("pm-1", "ssh -o BatchMode=yes root@10.77.0.2 'echo $SSH_CONNECTION'").startswith("10.77.0.1 ")
    said = lab.ssh("pm-1", "ssh -tt -o BatchMode=yes root@10.77.0.2 true >/dev/null 2>&1 || echo refused")
    assert said == "refused\n"


def test_a_fix_that_fails_is_taken_back(lab: Pmc) -> None:
    """The first step succeeds (DRBD at boot), the second (the backup directory) cannot."""
    module, own = "/usr/lib/modules-load.d/drbd.conf", "/etc/modules-load.d/lab.conf"
    how = f"mv {module} /root; sed -i 's/^drbd$/#drbd/' {own}; mv {BACKUPS} /root; ln -s /dev/null/x {BACKUPS}"
    fix = f"mv /root/drbd.conf {module}; sed -i 's/^#drbd$/drbd/' {own}; rm {BACKUPS}; mv /root/backups {BACKUPS}"
    with broken(lab, "pm-2", how, fix):
        done = lab.fab("pm.init", "pm-2", "--fix")
        assert done.returncode == 1
        assert "Undone: have DRBD's module loaded at boot (pm-2)" in done.stderr
        assert "Traceback" not in done.stderr
        assert lab.ssh("pm-2", "ls /etc/modules-load.d/pmc.conf 2>/dev/null || echo gone").strip() == "gone"
    lab.ok("pm.init", "pm-2")


def test_a_global_filter_that_nobody_set_is_set(lab: Pmc) -> None:
    conf = "/etc/lvm/lvm.conf"
    lab.ssh("pm-1", f"cp -p {conf} /root/lvm.conf; sed -i /global_filter/d {conf}")
    assert "✗ global_filter" in lab.fab("pm.init", "pm-1").stdout
    lab.ok("pm.init", "pm-1", "--fix")
    assert lab.ssh("pm-1", "lvmconfig devices/global_filter") == 'global_filter="r|^/dev/drbd|"\n'
    lab.ssh("pm-1", f"mv /root/lvm.conf {conf}; rm {conf}.before-pmc")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["pm.init"], "name a node"),
        (["pm.init", "pm-9"], "no such node"),
        (["pm.init", "pm-1,,"], "no such node"),
        (["pm.init", "pm-1;reboot"], "no such node"),
        (["pm.ready_drbd", "pm-9"], "no such node"),
        (["pm.ready_drbd", "--conf", "/nonexistent"], "no such file"),
    ],
)
def test_bad_input_is_refused_in_a_line(lab: Pmc, argv: list[str], says: str) -> None:
    done = lab.fab(*argv)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_user_with_sudo_does(lab: Pmc, tmp_path: Path) -> None:
    settings = lab.conf.read_text()
    ssh_config = Path(settings.split('ssh_config = "')[1].split('"')[0])
    (tmp_path / "ssh").write_text(ssh_config.read_text().replace("User root", "User admin"))
    (tmp_path / "pmc.conf").write_text(settings.replace(str(ssh_config), str(tmp_path / "ssh")))
    lab.ok("pm.init", "all", "--conf", str(tmp_path / "pmc.conf"))
    lab.ok("pm.ready_drbd", "--conf", str(tmp_path / "pmc.conf"))


def test_more_commands_at_once_than_sshd_allows_on_a_connection(lab: Pmc) -> None:
    """MaxSessions is 10 by default (sshd_config(5)). Each of these ends only when all of them are there."""
    many, meet = 12, 'touch "/run/meet/$1"; until [ "$(find /run/meet -type f | wc -l)" = "$2" ]; do sleep 1; done'
    assert "maxsessions 10\n" in lab.ssh("pm-1", "mkdir /run/meet; sshd -T")
    with Cluster(load(str(lab.conf))) as cluster, ThreadPoolExecutor(many) as pool:
        node = cluster.nodes["pm-1"]
        list(pool.map(lambda n: node.run(bash(meet, str(n), str(many)), seconds=120), range(many)))
    lab.ssh("pm-1", "rm -r /run/meet")


def test_ready_drbd_after_a_boot(lab: Pmc, clean: Clean) -> None:
    lab.add("web")
    assert lab.ok("pm.ready_drbd").count("UpToDate/UpToDate") == 2
    lab.lab.kill("pm-2")
    down = lab.fab("pm.ready_drbd")
    assert down.returncode == 1
    assert "down: no ssh" in down.stdout
    assert "Traceback" not in down.stderr
    assert lab.fab("pm.ready_drbd", "pm-2").returncode == 2
    init = lab.fab("pm.init", "all")
    assert init.returncode == 1
    assert "pm-2  ✗ answers" in init.stdout
    assert "pm-1  ✗ ssh with pm-2" in init.stdout
    lab.lab.start("pm-2")
    assert "fab pm.ready_drbd pm-2" in lab.fab("pm.ready_drbd", "pm-1").stdout
    assert "drbdadm up web" in lab.ok("pm.ready_drbd", "--dry-run")
    assert lab.ok("pm.ready_drbd").count("UpToDate/UpToDate") == 2
    again = lab.fab("pm.ready_drbd")
    assert again.returncode == 0
    assert "[1/" not in again.stderr


@pytest.mark.long
def test_ready_drbd_brings_up_all_that_can_be(lab: Pmc, clean: Clean) -> None:
    """A resource whose volume is lost does not keep the others down, and is told."""
    for name in ("db", "web"):
        lab.add(name)
        lab.ok("vm.stop", name, "--force")
    with broken(lab, "pm-2", "drbdadm down all; lvrename -q vg db gone", "lvrename -q vg gone db"):
        done = lab.fab("pm.ready_drbd", "pm-2")
        assert done.returncode == 1
        assert "pm-2: db:" in done.stderr
        rows = [line.split() for line in done.stdout.splitlines()]
        assert ["pm-2", "web", "Secondary", "Connected", "UpToDate/UpToDate", "100.0", "%"] in rows
    assert lab.ok("pm.ready_drbd").count("UpToDate/UpToDate") == 4


@pytest.mark.long
def test_ready_drbd_does_not_wait_for_a_split_brain(lab: Pmc, clean: Clean) -> None:
    lab.add("web")
    lab.ok("vm.stop", "web", "--force")
    for node in ("pm-1", "pm-2"):
        lab.ssh(node, "drbdadm disconnect web")
    for node in ("pm-1", "pm-2"):
        write = "dd if=/dev/zero of=/dev/drbd1 bs=4k seek=1 count=1 oflag=direct status=none"
        lab.ssh(node, f"drbdadm primary web; {write}; drbdadm secondary web")
    for node in ("pm-1", "pm-2"):
        lab.ssh(node, "drbdadm connect web")
    done = lab.fab("pm.ready_drbd")
    assert done.returncode == 1
    assert "split brain" in done.stdout
    # Nothing was resolved by itself: a person chooses whose data to throw away.
    lab.ssh("pm-2", "drbdadm disconnect web; drbdadm connect --discard-my-data web")
    lab.ssh("pm-1", "drbdadm connect web")
    lab.ok("pm.ready_drbd")
