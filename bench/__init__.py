"""Measurements: `python -m bench.list`, on simulated nodes (`python -m bench.fleet`); `python -m bench.backup`. See
docs/performance.md."""
