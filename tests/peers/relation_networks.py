"""The authors' trained relation networks (Sung et al. 2018), as runs of dmeta that are evaluated.

    python -m tests.peers.relation_networks RUNS [--data PATH] [--num-tasks N] [--only NAME ...]

PATH (default: DMETA_DATA) holds relation-networks/, omniglot/ and mini-imagenet/. Of every network
RUNS/NAME becomes a run folder, which `dmeta evaluate` and `dmeta.load` read, too. Prints a table;
with Omniglot, of whose evaluation alphabets the characters stay upright, also on drawings that are
shrunk as the authors' code shrinks them.

Weights: files of github.com/floodsung/LearningToCompare_FSL (commit b74e636), kept as safetensors
``<set>_{feature_encoder,relation_network}_<n>way_<k>shot.safetensors``.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import dmeta
from dmeta.algorithms.relation_scores import HIDDEN, LAYERS, NORMS, SCORE
from dmeta.runs.checkpoint import META_PARAMS, open_checkpoints, read_checkpoint, write_checkpoint
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.omniglot import load_omniglot

MEAN, STD = 0.92206, 0.08426
"""By which the authors normalise pixels in 0..1, of both data sets."""


@dataclass(frozen=True)
class Published:
    """A trained network.

    Attributes:
        experiment: the preset that has its settings.
        file: of its weights, without the network's name.
        accuracy: as published, in %.
    """

    experiment: str
    file: str
    accuracy: float

    @property
    def is_omniglot(self) -> bool:
        return self.file.startswith("omniglot")


NETWORKS = {
    network.experiment: network
    for network in (
        Published("miniimagenet_5w1s_relation", "miniimagenet_{}_5way_1shot", 50.44),
        Published("miniimagenet_5w5s_relation", "miniimagenet_{}_5way_5shot", 65.32),
        Published("omniglot_5w1s_relation", "omniglot_{}_5way_1shot", 99.6),
        Published("omniglot_20w1s_relation", "omniglot_{}_20way_1shot", 97.6),
    )
}


def read_weights(data: Path, network: Published) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dicts of the encoder and of the relation network."""
    folder = data / "relation-networks"
    parts = "feature_encoder", "relation_network"
    one, other = (load_file(folder / f"{network.file.format(p)}.safetensors") for p in parts)
    return one, other


def meta_params_of(
    encoder: dict[str, Tensor], relation: dict[str, Tensor], *, inverted: bool
) -> dict[str, Tensor]:
    """The authors' weights under dmeta's names, for images as dmeta has them.

    Args:
        encoder: state dict of their CNNEncoder.
        relation: state dict of their RelationNetwork.
        inverted: whether dmeta's pixels are 1 minus theirs, as Omniglot's are.
    """
    made = {
        name.replace("layer", "block"): value  # .0: convolution, .1: batch-norm
        for name, value in encoder.items()
        if "running" not in name
    }
    layers = {f"layer{i}.{j}": of[i - 1] for i in (1, 2) for j, of in enumerate((LAYERS, NORMS))}
    layers |= {"fc1": HIDDEN, "fc2": SCORE}
    for name, value in relation.items():
        layer, _, kind = name.rpartition(".")
        if "running" not in kind:
            made[f"{layers[layer]}/{kind}"] = value
    # Their input (x - MEAN) / STD, as part of the first convolution, which is not padded.
    factor, shift = 1 / STD, -MEAN / STD
    if inverted:
        factor, shift = -factor, shift + factor
    weight = made["block1.0.weight"]
    made["block1.0.bias"] = made["block1.0.bias"] + shift * weight.sum((1, 2, 3))
    made["block1.0.weight"] = factor * weight
    return made


def write_run(run_dir: Path, data: Path, network: Published) -> None:
    """A run of one step whose checkpoint is then given the authors' weights."""
    settings = {
        "experiment": network.experiment,
        "task.root": str(data),
        "run_dir": str(run_dir),
        "runtime": "local",
        "steps": 1,
        "eval.every": 0,
        "eval.num_tasks": 2,
        "joint_baseline": False,
    }
    dmeta.train(settings)
    weights = meta_params_of(*read_weights(data, network), inverted=network.is_omniglot)
    storage = open_checkpoints(run_dir, None)
    there = read_checkpoint(storage, 1)
    arrays = dict(there.state.arrays)
    arrays |= {META_PARAMS + name: value.numpy() for name, value in weights.items()}
    write_checkpoint(storage, there.state._replace(arrays=arrays), there.progress)


def nearest_omniglot(data: Path) -> ImageClasses:
    """The evaluation alphabets, shrunk to the nearest pixel: one bit has no grey in the source."""
    smooth = load_omniglot(root=str(data), split="lake", rotations="none")
    files: dict[str, list[bytes]] = {}
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(data / "omniglot" / f"{part}.zip") as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".png"):
                    character = "/".join(name.split("/")[-3:-1])
                    files.setdefault(character, []).append(archive.read(name))
    images = np.stack(
        [
            255 - np.asarray(Image.open(io.BytesIO(file)).resize((28, 28)), dtype=np.uint8) * 255
            for character in smooth.class_names
            for file in files[character]
        ]
    )
    return dataclasses.replace(smooth, images=images)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.relation_networks")
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of the runs")
    parser.add_argument("--data", type=Path, default=os.environ.get("DMETA_DATA", "data"))
    parser.add_argument("--num-tasks", type=int, default=1000)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | images | published | transductive | non-transductive | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in given.only:
        network, run_dir = NETWORKS[name], given.runs / name
        if not run_dir.exists():
            write_run(run_dir, given.data, network)
        task = {"split": "lake", "rotations": "none"} if network.is_omniglot else None
        wanted = {"dmeta's": {"task": task}}
        if network.is_omniglot:
            wanted["nearest pixel"] = {"source": nearest_omniglot(given.data)}
        for images, options in wanted.items():
            began = time.perf_counter()
            found = dmeta.evaluate(run_dir, num_tasks=given.num_tasks, **options)
            seconds = time.perf_counter() - began
            accuracies = [
                f"{100 * curve.mean[0]:.2f} ± {100 * curve.ci95[0]:.2f}"
                for curve in (found.transductive, found.non_transductive)
            ]
            cells = name, images, str(network.accuracy), *accuracies, f"{seconds:.0f}"
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
