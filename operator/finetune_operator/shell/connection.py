"""How the operator reaches the API server: in a pod by its service account, elsewhere by a kubeconfig.

One pool with a bounded number of connections is opened once and reused; nothing here knows what is asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import KUBE_CONFIG_DEFAULT_LOCATION, load_incluster_config, load_kube_config

from finetune_operator.shell.errors import OversizeError

# With trust_env each request looks for ~/.netrc and for proxies in two threads: a third of its whole cost (measured).
_SESSION = {"trust_env": False}

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def in_cluster() -> bool:
    """Whether the pod's service account is to be used: it is there, and KUBECONFIG does not overrule it."""
    return "KUBECONFIG" not in os.environ and TOKEN_FILE.exists()


async def load_configuration() -> Configuration:
    """Server, certificates and credentials, from the service account or a kubeconfig."""
    configuration = Configuration()
    if in_cluster():
        load_incluster_config(client_configuration=configuration)
    else:
        file = os.environ.get("KUBECONFIG", KUBE_CONFIG_DEFAULT_LOCATION)
        await load_kube_config(config_file=file, client_configuration=configuration)
    return configuration


async def authorization(configuration: Configuration) -> dict[str, str]:
    """The header that proves who we are, from a token that is read again when it may have changed."""
    token = (await configuration.auth_settings()).get("BearerToken")
    return {"Authorization": token["value"]} if token else {}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    code: int
    body: bytes
    headers: Mapping[str, str]


class Connection:
    """The official client below its generated API: requests with authentication, JSON as plain dictionaries."""

    def __init__(self, configuration: Configuration, connections: int) -> None:
        self._configuration = configuration
        configuration.connection_pool_maxsize = connections
        configuration.client_session_kwargs = dict(_SESSION)
        self._rest = RESTClientObject(configuration)

    async def request(
        self, method: str, path: str, *, body: object, content_type: str, seconds: float, limit: int | None = None
    ) -> Answer:
        """The answer within `seconds` and, if given, `limit` bytes; aiohttp.ClientError or TimeoutError without one."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        answer = await self._rest.request(
            method,
            f"{self._configuration.host}{path}",
            headers=headers | await authorization(self._configuration),
            body=body,
            _request_timeout=aiohttp.ClientTimeout(total=seconds),
        )
        content = await answer.read() if limit is None else await read_at_most(answer.response, limit)
        return Answer(answer.status, content, answer.headers)

    async def close(self) -> None:
        """Close all connections."""
        await self._rest.close()


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of an answer from somebody who is not trusted; OversizeError when it has more than `limit` bytes."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > limit:
            response.close()
            raise OversizeError(f"the answer has more than {limit} bytes")
    return bytes(content)


class _Sessions(RESTClientObject):
    def open(self) -> aiohttp.ClientSession:
        return self._create_pool_manager()


async def open_session(configuration: Configuration, options: dict[str, Any]) -> aiohttp.ClientSession:
    """A session of its own to the same server with the same credentials, for kopf's watches."""
    configuration.client_session_kwargs = {**_SESSION, "headers": await authorization(configuration), **options}
    return _Sessions(configuration).open()
