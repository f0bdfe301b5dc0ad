"""Poor man's cloud: highly available virtual machines on ordinary Linux nodes, driven over ssh.

What is named here is the interface for programs and tasks of one's own (docs/python.md; `pmc doc python`); all else may
change from version to version. Each name is imported when it is first used: `pmc --version` needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmc.cluster import Cluster as Cluster
    from pmc.command import Command as Command
    from pmc.command import Query as Query
    from pmc.command import bash as bash
    from pmc.errors import PmcError as PmcError
    from pmc.errors import Refused as Refused
    from pmc.model import ClusterState as ClusterState
    from pmc.model import NodeState as NodeState
    from pmc.plan import Plan as Plan
    from pmc.plan import Step as Step
    from pmc.settings import Settings as Settings
    from pmc.settings import load as load
    from pmc.tasks.base import carry_out as carry_out
    from pmc.tasks.base import located as located
    from pmc.tasks.base import opened as opened
    from pmc.tasks.base import task as task

__version__ = "0.1.0"
_HOME = {
    "Cluster": "cluster",
    **dict.fromkeys(("Command", "Query", "bash"), "command"),
    **dict.fromkeys(("PmcError", "Refused"), "errors"),
    **dict.fromkeys(("ClusterState", "NodeState"), "model"),
    **dict.fromkeys(("Plan", "Step"), "plan"),
    **dict.fromkeys(("Settings", "load"), "settings"),
    **dict.fromkeys(("carry_out", "located", "opened", "task"), "tasks.base"),
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pmc' has no attribute {name!r}")
    return getattr(import_module(f"pmc.{_HOME[name]}"), name)
