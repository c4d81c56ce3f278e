"""Tallystick's benchmarks: `python -m bench` measures a running service through HTTP, from another process."""
