"""Manifests of Kubernetes against the cluster's own schema, the task of SkyPilot, and the commands that both start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
MANIFESTS = sorted(LAUNCH.glob("kubernetes_*.yaml"))
RANKED = """\
# @package _global_
stages:
  first_stage: {kind: rerank, model: first_stage}
"""
TASK = set(
    """name workdir event_callback num_nodes resources file_mounts service pool setup run envs secrets managed_secrets
    inputs outputs file_mounts_mapping config volumes volume_mounts api_server_access""".split()  # noqa: SIM905
)
"""The keys of a task, from SkyPilot's own schema (0.14)."""
RESOURCES = {"accelerators", "job_recovery"}
RECOVERY = {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def container(path: Path) -> dict[str, Any]:
    [job] = [one for one in documents(path) if one["kind"] == "Job"]
    [found] = job["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_follows_the_schema_of_kubernetes(path: Path):
    for one in documents(path):
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        one["spec"]["no_such_field"] = 1
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_pod_that_was_stopped_on_request_is_started_again_and_has_time_to_save(path: Path):
    [job] = [one for one in documents(path) if one["kind"] == "Job"]
    rule = job["spec"]["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "Ignore" and rule["onExitCodes"]["values"] == [75]
    pod = job["spec"]["template"]["spec"]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 300
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in pod["containers"][0]["volumeMounts"]}


def test_the_pods_of_several_nodes_find_the_first_one():
    service, job = documents(LAUNCH / "kubernetes_nodes.yaml")
    spec, values = (
        job["spec"],
        {one["name"]: one.get("value") for one in container(LAUNCH / "kubernetes_nodes.yaml")["env"]},
    )
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(values["NNODES"])
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {
        "job-name": job["metadata"]["name"]
    }
    assert values["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert service["spec"]["ports"][0]["port"] == int(values["MASTER_PORT"])
    gpus = container(LAUNCH / "kubernetes_nodes.yaml")["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == int(values["GPUS_PER_NODE"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/ranked.yaml").write_text(RANKED)
    with (tmp_path / "data.jsonl").open("w") as file:
        for i in range(4):
            candidates = [{"docid": f"{i}{c}", "text": f"the text {c} {i}"} for c in "abc"]
            row = {"qid": f"q{i}", "query": f"query {i}", "candidates": candidates, "qrels": {f"{i}a": 1}}
            file.write(json.dumps({**row, "split": "test"}) + "\n")
    return tmp_path


def data(folder: Path) -> list[str]:
    return [f"--config-dir={folder / 'conf'}", "data=jsonl", f"data.path={folder / 'data.jsonl'}"]


def started(folder: Path, command: list[str], variables: Mapping[str, str]) -> str:
    """Run a command from the checkout's root, as the cluster does; returns what it shows."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NODE_", "MASTER_", "SLURM_"))}
    environment = {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def settings(shown: str, *names: str) -> dict[str, str]:
    launcher = shown[shown.index("launcher:") :]
    found = {name: re.search(rf"^  {name}: (.*)", launcher, re.MULTILINE) for name in names}
    return {name: match[1] for name, match in found.items() if match}


@pytest.mark.process
def test_the_command_of_one_pod_runs_every_stage(folder: Path):
    pod = container(LAUNCH / "kubernetes_node.yaml")
    assert [one.partition("=")[0] for one in pod["args"]] == ["experiment", "run_dir"]
    command = [*pod["command"], "experiment=ranked", f"run_dir={folder / 'run'}", *data(folder)]
    started(folder, command, {})
    assert (folder / "run/first_stage/run.trec").read_text().count("\n") == 12


@pytest.mark.process
def test_the_command_of_a_pod_joins_as_its_node(folder: Path):
    pod = container(LAUNCH / "kubernetes_nodes.yaml")
    variables = {one["name"]: one.get("value", "1") for one in pod["env"]}  # the second pod
    command = [*pod["command"], "experiment=ranked", f"run_dir={folder / 'run'}", *data(folder), "dry_run=true"]
    shown = started(folder, command, variables)
    assert settings(shown, "num_processes", "num_machines", "machine_rank", "main_process_ip") == {
        "num_processes": "16",
        "num_machines": "2",
        "machine_rank": "1",
        "main_process_ip": "rl-rerank-0.rl-rerank",
    }


def test_the_task_of_skypilot_has_keys_of_its_schema_and_clean_scripts(folder: Path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task.keys() <= TASK and task["resources"].keys() == RESOURCES
    assert task["resources"]["job_recovery"].keys() <= RECOVERY
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    for name in ("setup", "run"):
        script = folder / f"{name}.sh"
        script.write_text(f"#!/usr/bin/env bash\n{task[name]}")
        shellcheck = Path(sys.executable).with_name("shellcheck")
        ended = subprocess.run([shellcheck, "-e", "SC2154", script], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout


@pytest.mark.process
def test_a_node_of_the_task_is_a_machine_of_the_run(folder: Path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    variables = {
        **task["envs"],
        "EXPERIMENT": "ranked",
        "OVERRIDES": " ".join([*data(folder), "dry_run=true"]),
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n",
    }
    shown = started(folder, ["bash", "-c", task["run"]], variables)
    assert settings(shown, "num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port") == {
        "num_processes": "16",
        "num_machines": "2",
        "machine_rank": "1",
        "main_process_ip": "10.0.0.1",
        "main_process_port": "29500",
    }
    assert "run_dir: /runs/ranked\n" in shown
