"""Errors that are the user's to mend: shown as one sentence, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What is wrong, where, and what would be right."""


class LaunchError(UserError):
    """A launch file, or the arguments given to it, cannot be launched."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Nearest allowed name, then all of them: the end of a message about an unknown name."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    question = f"did you mean '{near[0]}'? " if near else ""
    return f"{question}Allowed: {', '.join(allowed) or 'none'}."
