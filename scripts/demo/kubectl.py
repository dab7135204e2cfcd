"""kubectl and helm against the chosen cluster."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

from local_cluster import binaries, clusters, locations


class Kubectl:
    """The two clients with the chosen cluster's kubeconfig."""

    def __init__(self) -> None:
        self.kubeconfig: Path = clusters.chosen().kubeconfig
        self._cache = locations.from_environment()

    def __call__(self, *arguments: str, stdin: IO[bytes] | None = None, check: bool = True) -> str:
        """Run kubectl and return its output; what it complains of goes to stderr."""
        return self._run("kubectl", *arguments, stdin=stdin, check=check)

    def apply(self, manifest: dict[str, Any]) -> str:
        """Create or update one object."""
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(manifest).encode())
            file.seek(0)
            return self("apply", "--server-side", "-f", "-", stdin=file)

    def helm(self, *arguments: str) -> str:
        """Run helm and return its output."""
        return self._run("helm", *arguments)

    def _run(self, program: str, *arguments: str, stdin: IO[bytes] | None = None, check: bool = True) -> str:
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        command = [str(binaries.path(program, self._cache)), *arguments]
        done = subprocess.run(command, env=environment, stdin=stdin, stdout=subprocess.PIPE, check=check)
        return done.stdout.decode()
