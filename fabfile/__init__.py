"""What `fab` loads: the tasks of pmc. Add your own to `ns` (see README, "A task of your own")."""

from pmc.tasks import ns
from pmc.tasks.arguments import install

install()

__all__ = ["ns"]
