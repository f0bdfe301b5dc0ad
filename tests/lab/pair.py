"""A DRBD resource on two real nodes, without a guest, and the same one in the model (tests/sim/world.py): the same
events happen to both, and after each the two must say the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from lab.cluster import Lab
from pmc import drbd, drbd_generations, lvm
from pmc.command import Command
from pmc.errors import PmcError
from pmc.facts.drbd_status import parse_status
from pmc.units import MiB
from tests.sim.machine import Kernel
from tests.sim.world import Cloud
from tests.unit.samples import SETTINGS

NAME, MINOR, PORT, SIZE = "pair", 77, 7877, 16 * MiB
NODES = ("pm-1", "pm-2")
LINK = frozenset(NODES)
BLOCK = 4096
DEADLINE = 90.0  # for the real ones to come to where the model is at once
Seen = dict[str, tuple[str, ...]]


class Real:
    """Driven by drbdadm, as a person would. Each method says whether the tool did it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def make(self) -> None:
        hosts = [(node, f"10.77.0.{node[-1]}") for node in NODES]
        text = drbd.resource_text(NAME, MINOR, PORT, lvm.path("vg", NAME), hosts, "secret", "8.4.11")
        text = text.replace("ping-int 3;", "ping-int 3; connect-int 4;")  # peers find each other sooner again
        for node in NODES:
            volume = f"lvcreate -qq -y -Wn --addtag pmc -L {SIZE + 4 * MiB}b -n {NAME} vg; blkdiscard -z /dev/vg/{NAME}"
            # The file must outlive a power loss that comes next, as pmc's do.
            up = f"sync; modprobe drbd; drbdadm create-md --force {NAME} 2>&1; drbdadm up {NAME}"
            self.ssh(node, f"cat >{drbd.path(NAME)} <<'EOT'\n{text}EOT\n{volume}; {up}")

    def remove(self) -> None:
        for node in NODES:
            self.ssh(node, f"drbdadm down {NAME}; drbdsetup down {NAME}; rm -f {drbd.path(NAME)}; "
                     f"lvremove -qq -y vg/{NAME}; true")  # fmt: skip

    def ssh(self, node: str, line: str) -> str:
        return self.lab.ssh(node, line)

    def tool(self, node: str, line: str) -> bool:
        return self.ssh(node, f"{{ {line}; }} >/dev/null 2>&1 && echo done || :").strip() == "done"

    def seen(self, off: set[str]) -> Seen:
        found: Seen = {}
        for node in set(NODES) - off:
            text = self.ssh(node, f"drbdsetup events2 --now --statistics {NAME}; drbdadm get-gi {NAME}; true")
            status = parse_status("".join(line + "\n" for line in text.splitlines() if line.startswith("exists")))
            if now := status.get(NAME):
                how = "Connecting" if now.connection in ("WFConnection", "Unconnected") else now.connection
                moving = now.replication if now.replication not in ("Off", "Established") else ""
                found[node] = (now.role, now.disk, how, moving)
        return found

    def past(self, node: str) -> drbd_generations.Generation:
        return drbd_generations.parse_generation(self.ssh(node, f"drbdadm get-gi {NAME}"))

    def blocks(self, node: str, numbers: int) -> frozenset[int]:
        """Which writes are on the volume, below DRBD."""
        script = (
            f"sync; for i in $(seq 1 {numbers}); do dd if=/dev/vg/{NAME} bs={BLOCK} skip=$((i * 3)) count=1 "
            f"iflag=direct status=none | head -c 8; echo; done"
        )
        rows = self.ssh(node, script + " | tr -d '\\0'").splitlines()
        return frozenset(number for number, row in enumerate(rows, 1) if row == f"{number:08}")

    def write(self, node: str, number: int) -> bool:
        return self.tool(node, f"printf %08d {number} | dd of=/dev/drbd{MINOR} bs={BLOCK} seek={number * 3} "
                         f"count=1 conv=sync,fsync oflag=direct status=none")  # fmt: skip


class Model(Cloud):
    """The same resource, made and equal."""

    def __init__(self) -> None:
        super().__init__()
        hosts = [(node, SETTINGS.nodes[node].replication) for node in NODES]
        text = drbd.resource_text(NAME, MINOR, PORT, lvm.path("vg", NAME), hosts, "secret", "8.4.11")
        for node in NODES:
            self.carry_out(node, drbd.write_file(NAME, text, "secret"))
            self.carry_out(node, lvm.create("vg", NAME, SIZE + 4 * MiB))
            self.carry_out(node, drbd.create_metadata(NAME))
            self.carry_out(node, drbd.up(NAME))
        self.number = 0

    def tool(self, node: str, do: Command) -> bool:
        try:
            self.carry_out(node, do)
        except PmcError:
            return False
        return True

    def kernel(self, node: str) -> Kernel | None:
        return self.nodes[node].resources.get(NAME)

    def seen(self) -> Seen:
        self.resync(NAME)
        state = self.state()
        return {
            node: (r.role, r.disk, r.connection, "")
            for node in NODES
            if (r := state.nodes[node].resources.get(NAME)) and node not in self.off
        }


class Pair:
    def __init__(self, lab: Lab, seed: int) -> None:
        self.real, self.model, self.chance = Real(lab), Model(), random.Random(seed)
        self.lab = lab
        self.said: list[str] = []

    def begin(self) -> None:
        self.real.make()
        self.agree("made")
        self.both("pm-1", drbd.skip_initial_sync(NAME))
        self.agree("declared equal")

    # -- events --

    def happen(self, power: bool) -> None:
        often = [self.write, self.promote, self.connect, self.heal]
        events: list[Callable[[str], str]] = [
            *often, *often, self.demote, self.disconnect, self.lose, self.cut, self.two, self.down, self.up,
        ]  # fmt: skip
        events += [self.power, self.boot, self.boot] if power else []
        node = self.chance.choice(NODES)
        what = self.chance.choice(events)(node)
        if what:
            self.said.append(what)
            print(what, flush=True)
            self.agree(what)

    def both(self, node: str, do: Command) -> str:
        if node in self.model.off:
            return ""
        real, model = self.real.tool(node, str(do)), self.model.tool(node, do)
        what = f"{node}: {str(do)[:99]}: {'done' if real else 'refused'}"
        assert real == model, f"{self.history()}\n{what}, and by the model {'done' if model else 'refused'}"
        return what

    def write(self, node: str) -> str:
        if node in self.model.off:
            return ""
        kernel = self.model.kernel(node)
        if kernel and kernel.held:
            return ""  # it would wait for the peer
        self.model.number += 1
        number = self.model.number
        real = self.real.write(node, number)
        may = kernel is not None and kernel.role == "Primary"
        assert real == may, f"{self.history()}\n{node}: write {number}: {real}, by the model {may}"
        if may:
            other = self.model.other(node, NAME)
            self.model.disks[node, NAME].write(number, alone=not other)
            if other:
                self.model.disks[other, NAME].write(number, alone=False)
        return f"{node}: write {number}: {real}"

    def promote(self, node: str) -> str:
        return self.both(node, drbd.primary(NAME))

    def demote(self, node: str) -> str:
        return self.both(node, drbd.secondary(NAME)) if self.model.kernel(node) else ""

    def disconnect(self, node: str) -> str:
        if not self.model.kernel(node):
            return ""
        return self.both(node, drbd_generations.disconnect(NAME))

    def connect(self, node: str) -> str:
        return self.both(node, drbd_generations.connect(NAME)) if self.model.kernel(node) else ""

    def lose(self, node: str) -> str:
        """A person gives this side up, as vm.repair does."""
        kernel = self.model.kernel(node)
        if not kernel or not kernel.alone or kernel.role == "Primary":
            return ""
        return self.both(node, drbd_generations.connect_as_loser(NAME))

    def two(self, node: str) -> str:
        """Both sides, or DRBD leaves them StandAlone; only while they are connected."""
        if not self.model.linked.get(NAME):
            return ""
        kernels = [self.model.kernel(each) for each in NODES]
        allowed = not any(kernel and kernel.two_primaries for kernel in kernels)
        return "; ".join(self.both(each, drbd.two_primaries(NAME, allowed, "8.4.11")) for each in NODES)

    def down(self, node: str) -> str:
        kernel = self.model.kernel(node)
        if not kernel or kernel.role == "Primary":
            return ""
        return self.both(node, drbd.down(NAME))

    def up(self, node: str) -> str:
        if self.model.kernel(node) or node in self.model.off:
            return ""
        return self.both(node, drbd.up(NAME))

    def cut(self, node: str) -> str:
        self.lab.cut(*NODES)
        self.model.sever(LINK)
        return "the link is cut"

    def heal(self, node: str) -> str:
        if not self.model.cut:
            return ""
        self.lab.heal()
        self.model.heal(LINK)
        return "the link is healed"

    def power(self, node: str) -> str:
        if self.model.off:
            return ""
        self.lab.kill(node)
        self.model.power_off(node)
        return f"{node} loses power"

    def boot(self, node: str) -> str:
        """With DRBD up again, as pm.ready_drbd brings it."""
        for each in sorted(self.model.off):
            self.lab.start(each)
            self.model.boot(each)
            self.model.unloaded.discard(each)
            return f"{each} is back; {self.up(each)}"
        return ""

    # -- both must say the same --

    def agree(self, what: str) -> None:
        wanted, deadline = self.model.seen(), time.monotonic() + DEADLINE
        while True:
            found = self.real.seen(self.model.off)
            if self.same(found, wanted):
                again = self.real.seen(self.model.off)
                if self.same(again, wanted):
                    break
            assert time.monotonic() < deadline, f"{self.history()}\nreal:  {found}\nmodel: {wanted}"
            time.sleep(0.5)
        self.follow(found)
        if len(found) == 2:
            real = drbd_generations.compare(*(self.real.past(node) for node in NODES))
            one, two = (known for node in NODES if (known := self.model.gi(node, NAME)))
            assert real == drbd_generations.compare(one, two), (
                f"{self.history()}\ngenerations: {real}, by the model {one}, {two}"
            )

    def same(self, found: Seen, wanted: Seen) -> bool:
        return found == wanted or (found.keys() == wanted.keys() and self.apart(found) and self.apart(wanted)
            and all(found[node][:2] == wanted[node][:2] for node in found))  # fmt: skip

    def apart(self, seen: Seen) -> bool:
        """Of two that found a split brain one may go on looking for its peer."""
        how = sorted(each[2] for each in seen.values())
        return how in (["StandAlone", "StandAlone"], ["Connecting", "StandAlone"])

    def follow(self, found: Seen) -> None:
        for node, seen in found.items():
            kernel = self.model.kernel(node)
            if kernel and self.apart(found):
                kernel.alone = seen[2] == "StandAlone"

    def end(self) -> None:
        """All is healed; each side has the writes that it has in the model."""
        self.heal("")
        self.boot("")
        for node in NODES:
            self.up(node)
        self.agree("all is up")
        for node in NODES:
            blocks = self.real.blocks(node, self.model.number)
            assert blocks == self.model.disks[node, NAME].writes, f"{self.history()}\n{node}: {sorted(blocks)}"

    def history(self) -> str:
        return "\n".join(["what happened:", *self.said])
