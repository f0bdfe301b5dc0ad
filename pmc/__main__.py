"""What the `pmc` command starts: its libraries take 0.2 s to load, and Ctrl-C may come then, too."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from pmc.main import main as run
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was touched")  # with status 1
    run()


if __name__ == "__main__":
    main()
