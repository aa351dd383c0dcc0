from __future__ import annotations

import re

from packaging.specifiers import SpecifierSet

from tests.cluster.files import (
    CONTAINERFILE,
    PROJECT,
    ROOT,
    container_arguments,
    manifest,
    pods,
    ray_cluster_specs,
    requirement,
)

TEXT = CONTAINERFILE.read_text().replace("\\\n", " ")


def test_python_and_the_pinned_packages_are_what_the_project_takes() -> None:
    arguments = container_arguments()
    assert f"{arguments['PYTHON_VERSION']}.1" in SpecifierSet(PROJECT["requires-python"])
    python = f"Programming Language :: Python :: {arguments['PYTHON_VERSION']}"
    assert python in PROJECT["classifiers"]
    for package in ("ray", "torch", "torchvision"):
        assert arguments[f"{package.upper()}_VERSION"] in requirement(package).specifier
    extras = ",".join(sorted(requirement("ray").extras))
    assert f"ray[{extras}]==$RAY_VERSION" in TEXT


def test_ray_and_the_image_are_those_of_the_manifests() -> None:
    version = container_arguments()["RAY_VERSION"]
    assert {spec["rayVersion"] for spec in ray_cluster_specs().values()} == {version}
    head = pods(manifest("RayCluster")["spec"])[0]
    tag = head["containers"][0]["image"].rpartition(":")[2]
    assert tag == f"{PROJECT['version']}-gpu"
    assert f"-t dmeta:{tag} --build-arg VARIANT=gpu" in TEXT


def test_everything_that_is_copied_is_there_and_makes_the_wheel() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--)(.*)$", TEXT, re.MULTILINE)]
    sources = {source for words in copied for source in words}
    assert all((ROOT / source).exists() for source in sources)
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "dmeta", "configs"}
    assert sources == needed


def test_both_variants_and_no_other() -> None:
    [choice] = re.findall(r'case "\$VARIANT" in(.*?)esac', TEXT)
    assert re.findall(r"(\S+)\) index=", choice) == ["cpu", "gpu"]
    assert "/whl/cpu" in choice
    assert "*) echo" in choice
    assert container_arguments()["VARIANT"] == "cpu"


def test_it_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\d+)", TEXT, re.MULTILINE)
    assert users == ["1000"]
    assert "--uid 1000" in TEXT
    assert TEXT.rindex("pip install") < TEXT.rindex("USER ")
