"""Kubernetes resource quantities as numbers, and back."""

from decimal import Decimal

_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
}


def number(quantity: str) -> float:
    """Value of a quantity in its base unit (cores, bytes)."""
    digits = quantity.rstrip("mkKMGTPi")
    return float(Decimal(digits) * _FACTORS[quantity[len(digits) :]])


def mebibytes(size: float) -> str:
    """`size` bytes as a quantity, rounded up to whole MiB."""
    return f"{-(-int(size) // 2**20)}Mi"
