"""pm.verify: what is wrong with a cluster, judged from one look and a few questions more. Pure.

One subject a file; in each, small functions from `Facts` to findings, which CHECKS lists.
"""

from __future__ import annotations

from pmc.health import node_findings, thin_pools, vm_backups, vm_domains, vm_files, vm_replication, vm_volumes
from pmc.health.cluster_facts import Facts
from pmc.health.finding import CODES, Finding

CHECKS = (
    *node_findings.CHECKS,
    *vm_files.CHECKS,
    *vm_domains.CHECKS,
    *vm_replication.CHECKS,
    *vm_volumes.CHECKS,
    *thin_pools.CHECKS,
    *vm_backups.CHECKS,
)
_ORDER = {code: number for number, code in enumerate(CODES)}


def findings(facts: Facts) -> list[Finding]:
    """In the order of CODES, in which they can be fixed."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda each: (_ORDER[each.code], each.vm, each.node))
