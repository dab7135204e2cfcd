"""RFC 3339 timestamps in UTC with whole seconds, as Kubernetes writes them."""

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """`moment` as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """The moment that `text` names."""
    return datetime.fromisoformat(text)


def seconds_between(earlier: str, later: datetime) -> float:
    """Seconds from the timestamp `earlier` to `later`."""
    return (later - parse(earlier)).total_seconds()
