"""Writes configuration so that a reader sees the old file or the new one, and no change where there is none.

kube-proxy ends when its configuration file is written, even with the same content.
"""

from __future__ import annotations

from pathlib import Path


def write(target: Path, content: str, mode: int = 0o600) -> Path:
    """Brings the file to that content."""
    if not target.exists() or target.read_text() != content:
        fresh = target.with_name(f"{target.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=mode)
        fresh.write_text(content)
        fresh.rename(target)
    return target
