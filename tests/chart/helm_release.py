"""The chart, rendered or installed with the real helm."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_cluster import binaries

CHART = Path(__file__).parents[2] / "charts" / "finetune-operator"
NAMESPACE = "finetune-system"
RELEASE = "finetune-operator"

Manifest = dict[str, Any]


class HelmError(Exception):
    """What helm said when it ended with an error."""


@dataclass(frozen=True)
class Rendered:
    """The manifests of one rendering."""

    manifests: list[Manifest] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Manifest]:
        return [each for each in self.manifests if each["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        (manifest,) = self.of_kind(kind)
        return manifest

    @property
    def pod(self) -> Manifest:
        spec: Manifest = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with a value of their own."""
        return {each["name"]: each["value"] for each in self.container["env"] if "value" in each}


def helm(*arguments: str, values: Manifest | None = None, kubeconfig: Path | None = None) -> str:
    """Standard output of helm; HelmError when it fails."""
    command = [str(binaries.path("helm")), *arguments, *([f"--kubeconfig={kubeconfig}"] if kubeconfig else [])]
    given = [] if values is None else ["--values=-"]
    text = yaml.safe_dump(values or {})
    done = subprocess.run([*command, *given], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def render(values: Manifest | None = None) -> Rendered:
    """`helm template`; the CRD, which is large, only when the values ask for it."""
    wanted = {"crds": {"enabled": False}} | (values or {})
    text = helm("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", values=wanted)
    return Rendered([each for each in yaml.safe_load_all(text) if each])
