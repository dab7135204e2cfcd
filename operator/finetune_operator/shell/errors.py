"""What can go wrong between the operator and the API server. The only errors that the rest of the shell knows.

ApiError
    NotFoundError           404: the object is gone
    AlreadyExistsError      409 on create: the name is taken
    ConflictError           409 on a change: the object is not the one, or not the version, that was meant
    RefusedError            the API server will not take this object as it is, or not from us
        ForbiddenError      403: permissions, quota, admission policy
        InvalidError        400, 413, 422: the object does not fit its schema
    GoneError               410: a continue token or a resourceVersion is too old
    TooManyRequestsError    429: try again after `retry_after` seconds
    UnavailableError        no answer, 401 or 5xx: try again
OversizeError               an answer is longer than it may be
NotLeaderError              a write was about to happen without a valid Lease
"""

import json
from collections.abc import Mapping


class ApiError(Exception):
    """An answer of the API server that is not a success, or no answer at all."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        """HTTP status; 0 without an answer."""
        self.reason = reason
        """Reason of the Kubernetes Status object, as in `Forbidden`."""


class NotFoundError(ApiError):
    """The object is gone."""


class AlreadyExistsError(ApiError):
    """The name is taken."""


class ConflictError(ApiError):
    """The object is not the one, or not the version, that was meant."""


class RefusedError(ApiError):
    """The API server will not take this object as it is, or not from us."""


class ForbiddenError(RefusedError):
    """Permissions, quota or an admission policy stand against it."""


class InvalidError(RefusedError):
    """The object does not fit its schema."""


class GoneError(ApiError):
    """A continue token or a resourceVersion is too old."""


class TooManyRequestsError(ApiError):
    """The API server asks for patience."""

    def __init__(self, message: str, *, code: int = 429, reason: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, code=code, reason=reason)
        self.retry_after = retry_after
        """Seconds to wait."""


class UnavailableError(ApiError):
    """The API server cannot answer now."""


class OversizeError(Exception):
    """An answer is longer than it may be."""


class NotLeaderError(Exception):
    """A write was about to happen without a valid Lease."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnavailableError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidError,
    422: InvalidError,
}


def error_of(code: int, body: bytes, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer with an HTTP status of 300 or more stands for."""
    status = _status(body)
    reason = str(status.get("reason") or "")
    message = str(status.get("message") or body[:512].decode(errors="replace") or f"HTTP {code}")
    if code == 429:
        return TooManyRequestsError(message, reason=reason, retry_after=_retry_after(headers))
    if code == 409 and reason == "AlreadyExists":
        return AlreadyExistsError(message, code=code, reason=reason)
    kind = UnavailableError if code >= 500 else _BY_CODE.get(code, ApiError)
    return kind(message, code=code, reason=reason)


def _status(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "1")))
    except ValueError:
        return 1.0
