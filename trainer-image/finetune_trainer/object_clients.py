"""Clients of object stores (s3://, gs://, az://), opened with the keys of a job's Secret, and what their errors mean.

Keys and addresses come from the variables that other clients of the same store know; docs/data.md lists them. Nobody
else's keys are looked for: a node's own role is not the job's to use. The clients are pyarrow's: s3fs cannot be
installed beside the Kubernetes client, which asks for another python-dateutil.
"""

import base64
import binascii
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from finetune_api.names import OUTPUT_ENV_PREFIX
from finetune_trainer.errors import InvalidSpecError, SourceNotFoundError, SourceUnavailableError, StageError

CONNECT_SECONDS = 20.0
REQUEST_SECONDS = 120.0
ATTEMPTS = 4
RETRY_SECONDS = 60.0
"""How long the client of gs:// tries again by itself; its own default is 15 minutes."""
TOKEN_LIFE = timedelta(days=2)
"""The client of gs:// wants to know when an access token ends; that is the store's to say."""
STORE_VARIABLES = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "AZURE_")
"""How the variables begin that a Secret may hold."""
MACHINE_VARIABLES = ("SSL_CERT_FILE",)
"""Set for the whole pod by the administrator, not for one store by a Secret."""


class DamagedObjectError(SourceUnavailableError):
    """An object whose content is not what the store's checksum says."""


@dataclass(frozen=True)
class Kind:
    """What differs between stores."""

    open: Callable[[Mapping[str, str], str], Any]
    keys: str
    """Variables that let a client in, for a message."""
    denied: tuple[str, ...]
    """Marks of a refusal in the client's messages; some stores answer 404 to a key that they do not know."""
    absent: tuple[str, ...]
    """Marks of a bucket or an object that is not there."""
    damaged: tuple[str, ...] = ()
    """Marks of content that does not match its checksum."""
    lists_folders: bool = True
    """Whether a listing of one level has the folders of deeper objects; without it only all levels can be listed."""
    replaces_whole: bool = True
    """Whether an object that is written anew has its old content until the new one is complete."""
    flush_every: int | None = None
    """Pieces after which a stream must be flushed, where it would else keep in memory whatever is not sent yet."""


@dataclass(frozen=True)
class Store:
    """A store, opened for one URI."""

    uri: str
    """As the user wrote it, without a slash at its end."""
    files: Any
    """A pyarrow.fs.FileSystem, whose paths begin with the bucket."""
    kind: Kind
    field: str
    """Field of the spec that names the Secret."""
    refused: type[StageError]
    """What is raised for a bucket that is not there or may not be used."""

    @property
    def path(self) -> str:
        """Bucket and key."""
        return self.uri.partition("://")[2]

    @property
    def bucket(self) -> str:
        """The bucket, or the container."""
        return self.path.partition("/")[0]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the client raises into `refused` or SourceUnavailableError. Only calls of the client go inside."""
        with _errors(self.kind, self.uri, self.field, self.refused):
            yield


def is_object_uri(uri: str) -> bool:
    """Whether `uri` names objects of a bucket."""
    return uri.partition("://")[0] in KINDS


def open_store(
    uri: str,
    environment: Mapping[str, str],
    field: str = "credentials",
    refused: type[StageError] = SourceNotFoundError,
) -> Store:
    """The store of `uri`, with the keys in `environment`.

    Raises InvalidSpecError for keys or an address that cannot be right, else as Store.errors.
    """
    kind = KINDS[uri.partition("://")[0]]
    with _errors(kind, uri, field, refused):
        files = kind.open(environment, uri)
    return Store(uri.rstrip("/"), files, kind, field, refused)


def output_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the Secret in output.credentials, by their own names, and those of the whole machine."""
    named = {
        name.removeprefix(OUTPUT_ENV_PREFIX): value
        for name, value in environment.items()
        if name.startswith(OUTPUT_ENV_PREFIX)
    }
    return {name: environment[name] for name in MACHINE_VARIABLES if name in environment} | named


def _s3(environment: Mapping[str, str], uri: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    import certifi
    from pyarrow import fs  # type: ignore[import-untyped]

    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    address = _address(endpoint, "AWS_ENDPOINT_URL", uri)
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise InvalidSpecError(f"{uri}: the Secret in credentials has no {missing}")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else str(fs.resolve_s3_region(uri.partition("://")[2].partition("/")[0]))
    return fs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        session_token=environment.get("AWS_SESSION_TOKEN") or None if key else None,
        anonymous=not key,
        region=region,
        scheme=address.scheme or "https",
        endpoint_override=f"{address.netloc}{address.path.rstrip('/')}" or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        background_writes=False,  # they would keep in memory whatever is not sent yet
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        tls_ca_file_path=environment.get("AWS_CA_BUNDLE") or environment.get("SSL_CERT_FILE") or certifi.where(),
    )


def _trust_authorities() -> None:
    """These clients take no option for it; without the variable they look where the image may have nothing."""
    import certifi

    os.environ.setdefault("SSL_CERT_FILE", certifi.where())


def _gcs(environment: Mapping[str, str], uri: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    from pyarrow import fs

    _trust_authorities()
    address = _address(environment.get("STORAGE_EMULATOR_HOST") or "", "STORAGE_EMULATOR_HOST", uri)
    token, account = environment.get("GOOGLE_OAUTH_ACCESS_TOKEN"), _service_account(environment, uri)
    if token and account:
        raise InvalidSpecError(
            f"{uri}: the Secret in credentials has both GOOGLE_CREDENTIALS and GOOGLE_OAUTH_ACCESS_TOKEN; keep one"
        )
    options = {
        "scheme": address.scheme or "https",
        "endpoint_override": address.netloc or None,
        "retry_time_limit": timedelta(seconds=RETRY_SECONDS),
    }
    if account:
        with _default_credentials(account):
            return fs.GcsFileSystem(**options)
    if token:
        expires = datetime.now(UTC) + TOKEN_LIFE
        return fs.GcsFileSystem(access_token=token, credential_token_expiration=expires, **options)
    return fs.GcsFileSystem(anonymous=True, **options)


def _service_account(environment: Mapping[str, str], uri: str) -> str | None:
    """The key of a service account as JSON text."""
    text, file = environment.get("GOOGLE_CREDENTIALS"), environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not text and file:
        try:
            text = Path(file).read_text()
        except (OSError, ValueError) as error:
            raise InvalidSpecError(
                f"{uri}: GOOGLE_APPLICATION_CREDENTIALS names a file, and it cannot be read here ({error}); a Secret "
                "holds the content of that file as GOOGLE_CREDENTIALS"
            ) from error
    if text and not _is_service_account(text):
        raise InvalidSpecError(
            f"{uri}: GOOGLE_CREDENTIALS is not the key of a service account, which is a JSON object with type: "
            "service_account, client_email and private_key"
        )
    return text or None


def _is_service_account(text: str) -> bool:
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return (
        isinstance(document, dict)
        and document.get("type") == "service_account"
        and all(isinstance(document.get(key), str) for key in ("client_email", "private_key"))
    )


@contextmanager
def _default_credentials(account: str) -> Iterator[None]:
    """Let the client find `account` where it looks for keys; it reads them once, when it is made."""
    variable = "GOOGLE_APPLICATION_CREDENTIALS"
    before = os.environ.get(variable)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(account)
        file.flush()
        os.environ[variable] = file.name
        try:
            yield
        finally:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


def _azure(environment: Mapping[str, str], uri: str) -> Any:  # noqa: ANN401 - pyarrow has no types
    from pyarrow import fs

    _trust_authorities()
    account, key, token, endpoint = _azure_account(environment, uri)
    address = _address(endpoint, "BlobEndpoint or AZURE_STORAGE_SERVICE_ENDPOINT", uri)
    blobs = _authority(account, address, uri)
    lake = blobs.replace(".blob.", ".dfs.", 1)
    if key and token:
        raise InvalidSpecError(f"{uri}: the Secret in credentials has both a key and a SAS token; keep one")
    if key:
        try:
            base64.b64decode(key, validate=True)
        except binascii.Error as error:
            raise InvalidSpecError(f"{uri}: AZURE_STORAGE_KEY is not the key of an account: {error}") from error
    if not key and not token:
        query = {
            "credential_kind": "anonymous",
            "enable_tls": str(address.scheme == "https").lower(),
            "blob_storage_authority": blobs,
            "dfs_storage_authority": lake,
        }
        return fs.FileSystem.from_uri(f"abfs://{quote(account)}@public?{urlencode(query)}")[0]
    return fs.AzureFileSystem(
        account,
        account_key=key,
        sas_token=f"?{token.removeprefix('?')}" if token else None,  # the client puts it behind the address as it is
        blob_storage_scheme=address.scheme,
        dfs_storage_scheme=address.scheme,
        blob_storage_authority=blobs,
        dfs_storage_authority=lake,
    )


def _azure_account(environment: Mapping[str, str], uri: str) -> tuple[str, str | None, str | None, str]:
    """Name, key, SAS token and address of the account."""
    text = environment.get("AZURE_STORAGE_CONNECTION_STRING") or ""
    parts = dict(part.strip().partition("=")[::2] for part in text.split(";") if part.strip())
    endpoint = parts.get("BlobEndpoint") or environment.get("AZURE_STORAGE_SERVICE_ENDPOINT") or ""
    account = parts.get("AccountName") or _first(environment, "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        account = urlsplit(endpoint).netloc.partition(".")[0]
    if not account:
        raise InvalidSpecError(
            f"{uri}: the account is not known: the Secret in credentials has neither AZURE_STORAGE_ACCOUNT nor "
            "AZURE_STORAGE_CONNECTION_STRING with AccountName"
        )
    key = parts.get("AccountKey") or _first(environment, "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
    token = parts.get("SharedAccessSignature") or environment.get("AZURE_STORAGE_SAS_TOKEN") or None
    scheme = parts.get("DefaultEndpointsProtocol") or "https"
    suffix = parts.get("EndpointSuffix") or "core.windows.net"
    return account, key, token, endpoint or f"{scheme}://{account}.blob.{suffix}"


def _authority(account: str, address: SplitResult, uri: str) -> str:
    """Host and port as the client wants them: with a dot in front where the account is a part of the host's name."""
    if address.netloc.startswith(f"{account}."):
        return address.netloc.removeprefix(account)
    if address.path.strip("/") not in ("", account):
        raise InvalidSpecError(f"{uri}: the address {address.geturl()} does not end with the account {account}")
    return address.netloc


def _first(environment: Mapping[str, str], *names: str) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _address(text: str, variable: str, uri: str) -> SplitResult:
    address = urlsplit(text)
    if text and (address.scheme not in ("http", "https") or not address.netloc):
        raise InvalidSpecError(f"{uri}: {variable} is not an address, as in https://minio.storage:9000")
    return address


@contextmanager
def _errors(kind: Kind, uri: str, field: str, refused: type[StageError]) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except FileNotFoundError as error:
        raise refused(f"{uri} does not exist: {_first_line(error)}") from error
    except (OSError, pyarrow.ArrowException) as error:
        text = str(error)
        if isinstance(error, PermissionError) or any(mark in text for mark in kind.denied):
            raise refused(
                f"{uri} may not be used with these keys: name a Secret with {kind.keys} in {field}, and check what "
                f"they allow ({_first_line(error)})"
            ) from error
        if any(mark in text for mark in kind.absent):
            raise refused(f"{uri} does not exist: {_first_line(error)}") from error
        if any(mark in text for mark in kind.damaged):
            raise DamagedObjectError(f"{uri}: what came is not what the store keeps: {_first_line(error)}") from error
        raise SourceUnavailableError(f"{uri}: the store did not answer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What the client says, without queries of addresses, which may hold a SAS token."""
    line = str(error).partition("\n")[0] or type(error).__name__
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "", line)[:300]


KINDS = {
    "s3": Kind(
        _s3,
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ("ACCESS_DENIED", "AccessDenied", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "UserNotFound", "403)"),
        ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND"),
        ("checksums mismatch",),
    ),
    "gs": Kind(
        _gcs,
        "GOOGLE_CREDENTIALS or GOOGLE_OAUTH_ACCESS_TOKEN",
        ("PERMISSION_DENIED", "UNAUTHENTICATED", "PEM"),
        ("NOT_FOUND",),
        ("DATA_LOSS",),
        lists_folders=False,
    ),
    "az": Kind(
        _azure,
        "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, or AZURE_STORAGE_SAS_TOKEN",
        ("Authentication", "Authorization", "PublicAccessNotPermitted", "403 ", "401 "),
        ("ContainerNotFound", "BlobNotFound", "FilesystemNotFound", "PathNotFound"),
        replaces_whole=False,
        flush_every=8,
    ),
}
