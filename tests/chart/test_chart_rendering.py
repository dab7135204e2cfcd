"""What the chart makes of its values."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from chart.helm_release import CHART, NAMESPACE, HelmError, helm, render
from finetune_api.names import PROGRESS_PORT
from finetune_api.v1alpha1 import FineTuneJob
from finetune_operator.settings import OperatorSettings
from generation.chart_values import SET_BY_THE_CHART, ChartValues, settings_properties

Values = dict[str, Any]

_DIGEST = f"sha256:{'a' * 64}"
_TWO_TEAMS: Values = {"namespaces": ["team-a", "team-b"]}
_HA: Values = {"replicas": 3}


@pytest.mark.parametrize("values", [{}, _TWO_TEAMS, _HA], ids=["default", "namespaced", "replicas"])
def test_helm_lint_finds_nothing(values: Values) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), values=values)


def test_by_default_all_namespaces_are_served_with_one_cluster_role() -> None:
    rendered = render()
    want_kinds = [
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRoleBinding",
        "Deployment",
        "NetworkPolicy",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ]
    assert sorted(each["kind"] for each in rendered.manifests) == want_kinds
    assert "FINETUNE_NAMESPACES" not in rendered.environment


def test_with_namespaces_the_operator_has_no_right_outside_them() -> None:
    rendered = render(_TWO_TEAMS)
    subjects = [name["metadata"]["name"] for name in rendered.of_kind("ClusterRole")]
    assert subjects == ["finetune-operator-editor", "finetune-operator-viewer"]
    assert rendered.of_kind("ClusterRoleBinding") == []
    roles = {each["metadata"]["namespace"] for each in rendered.of_kind("Role")}
    assert roles == {each["metadata"]["namespace"] for each in rendered.of_kind("RoleBinding")}
    assert roles == {NAMESPACE, "team-a", "team-b"}
    assert rendered.environment["FINETUNE_NAMESPACES"] == "team-a,team-b"


def test_several_replicas_get_a_disruption_budget_and_prefer_different_nodes() -> None:
    rendered = render(_HA)
    assert rendered.one("Deployment")["spec"]["replicas"] == 3
    assert rendered.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert rendered.pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"


def test_one_replica_can_be_drained() -> None:
    assert render().of_kind("PodDisruptionBudget") == []


@pytest.mark.parametrize("key", ["image", "trainer.image"])
def test_a_digest_wins_over_a_tag(key: str) -> None:
    image = {"repository": "registry.local/a", "tag": "v1", "digest": _DIGEST}
    rendered = render({"image": image} if key == "image" else {"trainer": {"image": image}})
    found = rendered.container["image"] if key == "image" else rendered.environment["FINETUNE_TRAINER_IMAGE"]
    assert found == f"registry.local/a@{_DIGEST}"


def test_without_tag_and_digest_both_images_have_the_version_of_the_chart() -> None:
    rendered = render()
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert rendered.container["image"] == f"finetune-operator:{version}"
    assert rendered.environment["FINETUNE_TRAINER_IMAGE"] == f"finetune-trainer:{version}"


def test_the_operator_reads_back_the_settings_that_the_values_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Values = {
        "trainer": {"image": {"pullPolicy": "Always", "pullSecrets": ["registry-a", "registry-b"]}},
        "namespaces": ["team-a", "team-b"],
        "settings": {
            "apiTimeoutSeconds": 7.5,
            "resyncSeconds": 1000000,
            "metricsNamespaces": ["monitoring", "grafana"],
            "stageEnv": {"HF_ENDPOINT": "https://hub.local", "EMPTY": ""},
            "logLevel": "DEBUG",
            "progressAccess": "proxy",
        },
    }
    for name, value in render(values).environment.items():
        monkeypatch.setenv(name, value)
    settings = OperatorSettings()
    assert settings.image_pull_policy == "Always"
    assert settings.image_pull_secrets == ("registry-a", "registry-b")
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.api_timeout_seconds == 7.5
    assert settings.resync_seconds == 1000000
    assert settings.metrics_namespaces == ("monitoring", "grafana")
    assert settings.stage_env == {"HF_ENDPOINT": "https://hub.local", "EMPTY": ""}
    assert (settings.log_level, settings.progress_access, settings.http_port) == ("DEBUG", "proxy", 8080)


def test_every_variable_is_a_setting_and_every_setting_can_be_set() -> None:
    samples = {
        "string": "IfNotPresent",
        "integer": 7,
        "number": 7.5,
        "boolean": True,
        "array": ["a"],
        "object": {"a": "b"},
    }
    values = {
        name: field["enum"][0] if "enum" in field else samples[field["type"]]
        for name, field in settings_properties().items()
    }
    rendered = render({"settings": values, "trainer": {"image": {"pullSecrets": ["a"]}}, "namespaces": ["a"]})
    names = {each["name"].removeprefix("FINETUNE_").lower() for each in rendered.container["env"]}
    want_unset = {"http_host", "leader_election"}
    assert names == set(OperatorSettings.model_fields) - want_unset
    assert want_unset < set(SET_BY_THE_CHART)


def test_identity_and_namespace_come_from_the_pod() -> None:
    sources = {each["name"]: each.get("valueFrom") for each in render().container["env"]}
    assert sources["FINETUNE_IDENTITY"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert sources["FINETUNE_OPERATOR_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_the_lease_has_the_name_that_the_role_allows() -> None:
    rendered = render({"fullnameOverride": "tuner"})
    (leader,) = rendered.of_kind("Role")
    assert [rule.get("resourceNames") for rule in leader["rules"]] == [None, ["tuner"]]
    assert rendered.environment["FINETUNE_LEASE_NAME"] == "tuner"


@pytest.mark.parametrize("values", [{}, _TWO_TEAMS], ids=["cluster", "namespaced"])
def test_no_rule_names_secrets_or_everything(values: Values) -> None:
    rendered = render(values)
    rules = [rule for kind in ("Role", "ClusterRole") for each in rendered.of_kind(kind) for rule in each["rules"]]
    assert len(rules) > 10
    assert [rule for rule in rules if "*" in str(rule) or "secrets" in rule["resources"]] == []


@pytest.mark.parametrize(("access", "want_proxy"), [("direct", False), ("auto", True), ("proxy", True)])
def test_the_pod_proxy_is_only_granted_when_progress_is_read_through_it(access: str, *, want_proxy: bool) -> None:
    rendered = render({"settings": {"progressAccess": access}})
    granted = [
        resource for each in rendered.of_kind("ClusterRole") for rule in each["rules"] for resource in rule["resources"]
    ]
    assert ("pods/proxy" in granted) == want_proxy


def test_people_get_finetunejobs_with_the_built_in_roles() -> None:
    roles = {each["metadata"]["name"]: each for each in render().of_kind("ClusterRole")}
    editor, viewer = roles["finetune-operator-editor"], roles["finetune-operator-viewer"]
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {name for name in editor["metadata"]["labels"] if name.startswith(prefix)} == {
        f"{prefix}admin",
        f"{prefix}edit",
    }
    assert viewer["metadata"]["labels"][f"{prefix}view"] == "true"
    assert viewer["rules"][0]["verbs"] == ["get", "list", "watch"]


def test_the_pod_is_hardened() -> None:
    rendered = render()
    assert rendered.pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_egress_is_closed_when_its_rules_are_given() -> None:
    egress = [{"ports": [{"port": PROGRESS_PORT, "protocol": "TCP"}]}]
    spec = render({"networkPolicy": {"egress": egress}}).one("NetworkPolicy")["spec"]
    assert (spec["policyTypes"], spec["egress"]) == (["Ingress", "Egress"], egress)
    assert render().one("NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]


def test_monitors_are_made_on_demand() -> None:
    monitor = {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"}
    rendered = render({"serviceMonitor": monitor, "podMonitor": monitor} | _TWO_TEAMS)
    assert rendered.one("ServiceMonitor")["spec"]["endpoints"][0]["interval"] == "15s"
    stages = rendered.one("PodMonitor")
    assert stages["metadata"]["labels"]["release"] == "prometheus"
    assert stages["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


@pytest.mark.parametrize(("keep", "want_annotations"), [(True, {"helm.sh/resource-policy": "keep"}), (False, None)])
def test_the_definition_stays_when_the_release_goes_unless_told_otherwise(
    *, keep: bool, want_annotations: dict[str, str] | None
) -> None:
    crd = render({"crds": {"enabled": True, "keep": keep}}).one("CustomResourceDefinition")
    assert crd["metadata"].get("annotations") == want_annotations
    own = yaml.safe_load((CHART.parents[1] / "crds/slmops.dev_finetunejobs.yaml").read_text())
    assert crd["spec"] == own["spec"]


_BAD_VALUES: dict[str, tuple[Values, str]] = {
    "a misspelt value": ({"replica": 2}, "'replica' not allowed"),
    "a misspelt setting": ({"settings": {"logLvl": "INFO"}}, "'logLvl' not allowed"),
    "a setting of the chart": ({"settings": {"httpPort": 1}}, "'httpPort' not allowed"),
    "an unknown level": ({"settings": {"logLevel": "LOUD"}}, "/settings/logLevel"),
    "no replicas": ({"replicas": 0}, "/replicas"),
    "replicas in words": ({"replicas": "two"}, "/replicas"),
    "a short digest": ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    "a tag as digest": ({"trainer": {"image": {"digest": "v1"}}}, "/trainer/image/digest"),
    "no repository": ({"image": {"repository": ""}}, "/image/repository"),
    "a pull policy in lower case": ({"image": {"pullPolicy": "always"}}, "/image/pullPolicy"),
    "a namespace with a slash": ({"namespaces": ["a/b"]}, "/namespaces/0"),
    "one namespace as text": ({"namespaces": "team-a"}, "/namespaces"),
    "an interval without a unit": ({"serviceMonitor": {"interval": "30"}}, "/serviceMonitor/interval"),
}


@pytest.mark.parametrize("title", _BAD_VALUES)
def test_bad_values_are_refused_by_name(title: str) -> None:
    values, want_message = _BAD_VALUES[title]
    with pytest.raises(HelmError) as refusal:
        render(values)
    assert want_message in str(refusal.value)


def test_values_of_a_parent_chart_are_allowed() -> None:
    assert render({"global": {"domain": "local"}}).manifests


def test_the_documented_values_are_the_defaults() -> None:
    written = yaml.safe_load((CHART / "values.yaml").read_text())
    assert written == ChartValues().model_dump(by_alias=True)


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    assert {chart["version"], chart["appVersion"]} == {project["version"]}


def test_the_example_on_artifact_hub_is_a_job() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    (example,) = yaml.safe_load(annotations["artifacthub.io/crdsExamples"])
    assert FineTuneJob.model_validate(example).spec.task == "chat"


def test_the_example_in_the_notes_is_a_job() -> None:
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    found = re.search(r"<<EOF\n(.*?)\n *EOF", notes, re.DOTALL)
    assert found is not None
    assert FineTuneJob.model_validate(yaml.safe_load(found.group(1))).spec.model.source.startswith("hf://")


def test_the_readme_lists_the_rights_that_the_roles_give() -> None:
    rendered = render({"settings": {"progressAccess": "auto"}})
    (operator,) = [each for each in rendered.of_kind("ClusterRole") if each["metadata"]["name"] == "finetune-operator"]
    rules = [*operator["rules"], *rendered.one("Role")["rules"]]
    granted: dict[str, set[str]] = {}
    for rule in rules:
        for resource in rule["resources"]:
            granted.setdefault(resource, set()).update(rule["verbs"])
    section = (CHART / "README.md").read_text().partition("## What it may do")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z/]+) \| ([a-z, ]+) \|", section, re.MULTILINE)
    assert {resource: set(verbs.split(", ")) for resource, verbs in rows} == granted
