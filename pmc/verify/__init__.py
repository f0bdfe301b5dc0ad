"""pm.verify: what is wrong with a cluster, judged from one look and a few questions more. Pure.

One subject a file; in each, small functions from `Facts` to findings, which CHECKS lists.
"""

from __future__ import annotations

from pmc.verify import backups, domains, files, nodes, pools, resources, volumes
from pmc.verify.facts import Facts
from pmc.verify.finding import CODES, Finding

CHECKS = (
    *nodes.CHECKS,
    *files.CHECKS,
    *domains.CHECKS,
    *resources.CHECKS,
    *volumes.CHECKS,
    *pools.CHECKS,
    *backups.CHECKS,
)
_ORDER = {code: number for number, code in enumerate(CODES)}


def findings(facts: Facts) -> list[Finding]:
    """In the order of CODES, in which they can be mended."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda each: (_ORDER[each.code], each.vm, each.node))
