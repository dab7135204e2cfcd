"""Which memory allocator this process has, as the kernel tells it."""

from pathlib import Path

_COMPACT = ("tcmalloc", "jemalloc", "mimalloc")
"""Libraries that keep blocks of a size together; the image of the trainer preloads the first."""


def leaves_holes(maps: Path = Path("/proc/self/maps")) -> bool:
    """Whether blocks come from the C library's heap, where holes between blocks that are kept are seldom filled."""
    try:
        loaded = maps.read_text()
    except OSError:
        return True
    return not any(f"/lib{name}" in loaded for name in _COMPACT)
