"""Tallystick: usage in, money out, nothing lost."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("tallystick")
