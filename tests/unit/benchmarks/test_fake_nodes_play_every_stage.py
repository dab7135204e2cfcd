"""KWOK is told what a pod of each stage says when it ends."""

import pytest
import yaml

from control import fake_nodes
from finetune_api import names
from finetune_api.contract import parse_result
from finetune_api.status import Stage

POD = {"name": "stage", "image": "trainer:1"}


def played(template: str) -> dict:
    """The template as KWOK fills it in for a pod of one container."""
    text = template.replace("{{ Now | Quote }}", '"2026-01-01T00:00:00Z"')
    text = text.replace("{{ range .spec.containers }}", "").replace("{{ end }}", "")
    for field, value in POD.items():
        text = text.replace(f"{{{{ .{field} | Quote }}}}", f'"{value}"')
    assert "{{" not in text
    return yaml.safe_load(text)


@pytest.mark.parametrize("stage", Stage)
def test_a_pod_of_a_stage_ends_with_a_result_that_the_operator_understands(stage: Stage) -> None:
    (found,) = [s for s in fake_nodes.stages(pods_end=True) if s["metadata"]["name"] == f"pod-ends-{stage}"]
    label = {"key": f'.metadata.labels["{names.LABEL_STAGE}"]', "operator": "In", "values": [stage]}
    assert label in found["spec"]["selector"]["matchExpressions"]
    (container,) = played(found["spec"]["next"]["statusTemplate"])["containerStatuses"]
    result = parse_result(container["state"]["terminated"]["message"])
    assert result is not None
    assert (result.stage, result.outcome) == (stage, "Succeeded")


def test_pods_run_at_once_and_go_when_they_are_deleted_even_where_none_ends() -> None:
    runs, stops, goes = fake_nodes.stages(pods_end=False)
    status = played(runs["spec"]["next"]["statusTemplate"])
    assert (status["phase"], status["podIP"]) == ("Running", "127.0.0.1")
    assert played(stops["spec"]["next"]["statusTemplate"]) == {"phase": "Failed"}
    assert goes["spec"]["next"] == {"delete": True}


def test_every_new_pod_is_put_on_the_node() -> None:
    policy, binding = fake_nodes.placement()
    (mutation,) = policy["spec"]["mutations"]
    assert f'nodeName: "{fake_nodes.NODE}"' in mutation["applyConfiguration"]["expression"]
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
