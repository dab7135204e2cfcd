"""What this CPU can do, as the kernel tells it."""

from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""x86 and Arm flags of processors that multiply bf16 natively."""


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bf16 is multiplied natively; elsewhere it is converted at every use and slower than fp32."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    words = next((line.split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return not _BF16_FLAGS.isdisjoint(words)
