"""The link between a manager and a node is cut for a while, in the middle of a command, while another manager tries:
never do steps of both run at a time, and none runs under the lock of the other."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from lab import witness
from tests.unit.wire import Wire

from .conftest import Pmc, broken_invariants
from .rig import DEADLINE, instead, read_until, started, until

Clean = Callable[[], list[str]]
NODES = ("pm-1", "pm-2")
LOG = "/run/steps"
# In place of drbdadm and virsh: for each step about web its token, and whose lock web is, when it begins and when it
# ends. A question has no token.
NOTED = (
    't=$(p=$$; while [ "$p" -gt 1 ]; do tr "\\0" " " </proc/$p/cmdline; p=$(cut -d" " -f4 /proc/$p/stat); done '
    "| grep -o '/run/pmc/web.busy [0-9a-f]*' | head -n 1 | cut -d' ' -f2); "
    "whose() { grep -o '[0-9a-f]\\{16\\}' /run/pmc/web.lock | head -n 1; }; "
    f'if [ "$t" ]; then echo "begin $t $(whose) $*" >>{LOG}; "$real" "$@"; s=$?; '
    f'echo "end $t $(whose) $*" >>{LOG}; exit $s; fi'
)
SCALED = "import sys, pmc.lock_files as lock; lock.SILENCE, lock.BEAT = {silence}, 1; from pmc.main import main; main()"


@contextmanager
def noted(lab: Pmc) -> Iterator[None]:
    """The steps about web leave a note on each node, which are looked at in the end."""
    with ExitStack() as stack:
        for node in NODES:
            lab.ssh(node, f"rm -f {LOG}")
            for tool in ("drbdadm", "virsh"):
                stack.enter_context(instead(lab, node, tool, "web", NOTED))
        yield
        for node in NODES:
            see_apart(node, lab.ssh(node, f"cat {LOG} || :").splitlines())


def see_apart(node: str, lines: list[str]) -> None:
    """Steps of one command only run at any moment, under its own lock."""
    running: list[str] = []
    for line in lines:
        what, token, whose, *_ = line.split()
        assert token == whose, f"{node}: under another one's lock: {line}\n" + "\n".join(lines)
        assert set(running) <= {token}, f"{node}: beside another one's step: {line}\n" + "\n".join(lines)
        running.append(token) if what == "begin" else running.remove(token)


def test_the_notes_tell_steps_that_overlap() -> None:
    see_apart("pm-1", ["begin a a up", "end a a up", "begin b b up", "end b b up"])
    for wrong in (["begin a b up"], ["begin a a up", "begin b b up"], ["begin a a up", "end a b up"]):
        with pytest.raises(AssertionError):
            see_apart("pm-1", wrong)


@contextmanager
def scaled(conf: Path, silence: int, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """A manager for which `silence` seconds are what a minute is for others: its nodes let go after that."""
    code = SCALED.format(silence=silence)
    with subprocess.Popen(
        [sys.executable, "-c", code, *argv], cwd=witness.ROOT, env={**os.environ, "PMC_CONF": str(conf)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.long
@pytest.mark.fault("the link between one manager and the nodes cut in a step, while another manager works")
@pytest.mark.parametrize(
    "word", ["make web primary", *(pytest.param(f"[{n}/5]", marks=pytest.mark.long) for n in (1, 2, 3, 5))]
)
def test_one_managers_link_is_cut_while_another_one_works(lab: Pmc, clean: Clean, tmp_path: Path, word: str) -> None:
    """The first one's nodes let go after 8 s in place of a minute; the second one gets the lock then, or when the step
    ends that runs there, and closes what the first one left. What the first one had on its way then arrives."""
    guest = lab.add("web")
    tick = guest.ticking(5)
    conf, wires = behind_wires(lab, tmp_path)
    try:
        with noted(lab), scaled(conf, 8, "vm.mv", "web") as first:
            assert word in read_until(first, word)
            for wire in wires:
                wire.cut()
            # It waits for the lock, and for the end of a migration that runs.
            lab.ok("vm.mv", "web", "--cleanup")
            seen = lab.state()
            for wire in wires:
                wire.heal()
            _, said = first.communicate(timeout=DEADLINE)
            print(said)
            lab.ok("vm.mv", "web", "--cleanup")
    finally:
        for wire in wires:
            wire.close()
    assert lab.state().active_on("web") == seen.active_on("web"), "the first one did nothing more"
    assert lab.state().primaries("web") == seen.primaries("web")
    assert broken_invariants(lab.state()) == []
    assert guest.ticking(tick.counter).boots == 1
    for node in NODES:
        guest.checked(node)


def behind_wires(lab: Pmc, folder: Path) -> tuple[Path, list[Wire]]:
    """The configuration of a manager whose way to the nodes can be cut."""
    ssh = lab.lab.conf().ssh.read_text()
    known = lab.lab.conf().known_hosts.read_text()
    wires = []
    for machine in lab.lab.machines():
        wires.append(Wire(machine.port))
        ssh = ssh.replace(f"Port {machine.port}\n", f"Port {wires[-1].port}\n")
        known = known.replace(f"[127.0.0.1]:{machine.port}", f"[127.0.0.1]:{wires[-1].port}")
    (folder / "known").write_text(known)
    (folder / "ssh").write_text(ssh.replace(str(lab.lab.conf().known_hosts), str(folder / "known")))
    conf = folder / "pmc.conf"
    conf.write_text(lab.conf.read_text().replace(str(lab.lab.conf().ssh), str(folder / "ssh")))
    return conf, wires


VERBS: dict[str, tuple[str, ...]] = {
    "vm.mv": ("allow two primaries", "make web primary", "migrate web", "make web secondary"),
    "vm.backup": ("take the snapshot", "read the disk", "finish web"),
}


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.fault("manager-to-node links cut for 5 to 90 s in a step, while another manager tries")
@pytest.mark.parametrize("verb", VERBS)
def test_the_nodes_are_unplugged_for_a_while(lab: Pmc, clean: Clean, verb: str, record_property: Any) -> None:
    """Both nodes, for all managers: the second one comes when the link is about to work again, and meets what the first
    one has on its way. Each step twice, each time for as long as it falls to it: another length in each run."""
    guest, rounds = lab.add("web"), 0
    tick = guest.ticking(5)
    lengths = [5, 30, 58, 65, 90]
    random.shuffle(lengths)
    for word, seconds in zip(2 * VERBS[verb], cycle(lengths), strict=False):
        with noted(lab), started(lab, verb, "web") as first:
            assert word in read_until(first, word)
            with lab.lab.unplugged(*NODES):
                time.sleep(max(0, seconds - 5))
                with started(lab, "vm.mv", "web", "--cleanup") as second:
                    time.sleep(min(5, seconds))
                    lab.lab.heal()
                    _, said = second.communicate(timeout=DEADLINE)
            _, told = first.communicate(timeout=2 * DEADLINE)
            print(f"--- {verb}, {word}, {seconds} s: {first.returncode}\n{told}--- {second.returncode}\n{said}")
            assert "Traceback" not in told + said
            # One command cleans, however it ended.
            lab.ok(verb, "web", *(["--cleanup"] if verb == "vm.mv" else []))
        assert broken_invariants(lab.state()) == []
        tick = guest.ticking(tick.counter)
        assert tick.boots == 1
        for node in NODES:
            guest.checked(node)
        rounds += 1
    until(lambda: lab.fab("pm.verify").returncode == 0, "nothing is left")
    record_property("rounds", rounds)
