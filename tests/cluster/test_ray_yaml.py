from __future__ import annotations

import copy
import re
import subprocess
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import RAY_YAMLS, documents, ray_cluster_specs

CONFIGS = {path.name: documents(path)[0] for path in RAY_YAMLS}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` has it before it asks the provider."""
    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def commands(config: dict[str, Any]) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("commands") for line in lines]


def starts(config: dict[str, Any]) -> list[str]:
    """The `ray start` of the head, and that of the others."""
    found = [line for line in commands(config) if "ray start" in line]
    return sorted(found, key=lambda line: "--head" not in line)


def test_both_ways_are_there() -> None:
    assert set(CONFIGS) == {"on_premise.yaml", "aws.yaml"}


@EVERY_CONFIG
def test_ray_takes_the_file(config) -> None:
    validate_config(prepared(config))


@EVERY_CONFIG
@pytest.mark.parametrize(("key", "value"), [("max_worker", 3), ("idle_timeout_minutes", "ten")])
def test_ray_refuses_a_mistake(config, key, value) -> None:
    with pytest.raises(jsonschema.ValidationError):
        prepared(config | {key: value})


@EVERY_CONFIG
def test_every_command_is_sound(config) -> None:
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)


@EVERY_CONFIG
def test_the_cluster_asks_for_a_token_that_nobody_else_reads(config) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]
    head, worker = starts(config)
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host" not in head  # loopback


@EVERY_CONFIG
def test_the_head_has_no_cpus_and_the_others_find_it(config) -> None:
    head, worker = starts(config)
    assert "--num-cpus=0 " in head
    assert re.findall(r"--port=(\d+)", head) == re.findall(r"RAY_HEAD_IP:(\d+)", worker) == ["6379"]
    assert "--dashboard-port=8265" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head


@EVERY_CONFIG
def test_ray_is_the_one_of_the_manifests(config) -> None:
    versions = {v for line in commands(config) for v in re.findall(r"ray\[.*\]==([\d.]+)", line)}
    assert versions == {spec["rayVersion"] for spec in ray_cluster_specs().values()}


def test_on_premise_all_machines_are_kept() -> None:
    config = prepared(CONFIGS["on_premise.yaml"])
    [node_type] = config["available_node_types"].values()
    num_workers = len(config["provider"]["worker_ips"])
    assert node_type["min_workers"] == node_type["max_workers"] == num_workers > 1


def test_on_aws_machines_with_gpus_come_and_go() -> None:
    config = prepared(CONFIGS["aws.yaml"])
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert gpu["resources"]["GPU"] == 1
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False
