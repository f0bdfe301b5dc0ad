"""Blocks that an online verify has marked as different, while both sides call themselves up to date. Pure.

By LINBIT's user's guide ("Using on-line device verification") the sides are disconnected and connected again, and the
marked blocks are copied. DRBD copies them when one side has begun a new generation meanwhile, which the primary does
with the first write that the other side does not get, and from that side. When both are secondary it copies nothing
(drbd_receiver.c: "No resync, but bits in bitmap"), and neither side's blocks are known to be the right ones.
"""

from __future__ import annotations

from pmc import drbd_generations
from pmc.actions import Wait
from pmc.plan import Step
from pmc.plans.repair_context import Condition, RepairContext
from pmc.units import show_size

CODE = "differs"


def differing(case: RepairContext) -> list[Condition]:
    """What the side in use has is what the guest knows, and so it is copied to the other one."""
    name, size = case.name, case.state.differs(case.name)
    primaries = [home for home, its in case.up.items() if its.primary]
    if not size or len(primaries) > 1:
        return []  # of two primaries one is made secondary first
    text = f"{show_size(size)} of its disk differ between {' and '.join(case.homes)}, as a verify found"
    if primaries != [case.active]:
        refusal = (
            f"{text}, and it does not run, so it is not known which side is right; start it where its data are the "
            f"ones to keep (fab vm.start {name} --on NODE), then run this again"
        )
        return [Condition(CODE, text, refusal=refusal)]
    source, target = case.active, case.other(case.active)
    if case.wishes.keep == target:
        refusal = (
            f"--keep {target}: no split brain, but {text}; those of {source}, where it runs, would overwrite those of "
            f"{target}; to keep these: fab vm.stop {name}, then fab vm.start {name} --on {target}, then run this again"
        )
        return [Condition(CODE, text, refusal=refusal)]
    steps = (
        Step(target, f"disconnect {name}", drbd_generations.disconnect(name), undo=drbd_generations.connect(name)),
        Step(source, f"wait until {name} writes without its other side", _written(case, source, target)),
        Step(target, f"connect {name} again", drbd_generations.connect(name), pivot=True),
        Step(source, f"connect {name} again", drbd_generations.connect_if_alone(name), pivot=True),
    )
    advice = f"all of it, where DRBD does not copy these blocks: on {target}: drbdadm invalidate {name}"
    return [Condition(CODE, f"{text}; those of {source}, where it runs, are copied", steps, advice=advice)]


def _written(case: RepairContext, source: str, target: str) -> Wait:
    asked = drbd_generations.went_on(case.name, target, case.node(source).drbd)
    otherwise = "the guest writes nothing, so DRBD would copy nothing; write a file in it, then run this again"
    return Wait(asked, case.settings.deadlines.peer, otherwise)
