"""`dmeta embed` and `dmeta.embed`: feature vectors of a data set from a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt
from rich.console import Console
from rich.progress import Progress
from torch import nn

from dmeta.addresses import folder_here
from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds
from dmeta.bilevel.types import Params
from dmeta.cli.load import find_checkpoint
from dmeta.cli.saved_run import SavedRun, read_saved, typed_root, with_root
from dmeta.cli.settings.trust import check_saved, trusts
from dmeta.cli.single_run import alone_in_process
from dmeta.formatting import safe_text
from dmeta.models.network import Network
from dmeta.options import check_fields, checked
from dmeta.quoting import override_word
from dmeta.runs.folder import RunPlace, check_folder, run_place
from dmeta.runtime.local import local_device
from dmeta.tasks.feature_files import write_features
from dmeta.tasks.source import SPLITS, ListsExamples, TaskSource
from dmeta.training.build import make_network, make_source
from dmeta.training.config import RunConfig
from dmeta.training.devices.gpu import set_up_gpu
from dmeta.training.work.embedding import embed_source, embedding_params
from dmeta.training.work.task_checks import made_up_inputs
from dmeta.typed_values import AtLeastTwo

_WRITTEN = "features.npz"


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Settings of `dmeta embed`.

    Attributes:
        run_dir: the run whose network embeds (a folder that `dmeta train` wrote, or its URL): of a
            method that learns an embedding, such as protonet, or the weights of a classifier, such
            as maml, whose last layer is left out.
        out: the file to write, which must be new; None: features.npz in run_dir.
        checkpoint: ``last``, ``best`` (on validation tasks), or the step of a kept checkpoint.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda``, or ``auto``: cuda if there is one.
        batch_size: examples at a time.
        statistics_examples: training examples whose batch statistics serve all others.
    """

    run_dir: str
    out: str | None = None
    checkpoint: NonNegativeInt | Literal["last", "best"] = "last"
    root: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: AtLeastTwo = 512
    statistics_examples: AtLeastTwo = 128

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "")


@alone_in_process("dmeta.embed")
def embed(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    checkpoint: int | Literal["last", "best"] = "last",
    root: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    batch_size: int = 512,
    statistics_examples: int = 128,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
    trust: bool = False,
) -> Path | str:
    """Write what a trained network makes of every example of its run's data set.

    Of a run whose method learns an embedding (protonet), that is its network; of one that learns a
    classifier's weights (maml, fomaml, reptile, anil, body_only, meta_sgd, imaml, joint), the
    network without its last layer. Batch statistics are those of training examples alone (see
    `dmeta.training.work.embedding`).

    Args:
        run_dir: what `dmeta.train` wrote.
        out: the file, which must be new; None: ``features.npz`` in the run's folder.
        checkpoint: ``last``, ``best`` on validation tasks, or the step of a kept checkpoint.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda`` or ``auto``.
        batch_size: examples at a time.
        statistics_examples: training examples that batch statistics are taken of.
        model: your own module that the run was trained with, if it was; its method must embed.
        source: your own task source that the run was trained with, if it was; it must list its
            examples (`dmeta.tasks.source.ListsExamples`).
        algorithm: your own method that the run was trained with, if it was.
        trust: contact the addresses in the run's settings even if someone else wrote them.

    Returns: the file, or its address, for ``task=features task.file=...``.

    Raises:
        ValueError: the run cannot embed, or a setting is not what it must be.
    """
    wanted = EmbedConfig(
        str(run_dir),
        None if out is None else str(out),
        checkpoint,
        root,
        device,
        batch_size,
        statistics_examples,
    )
    own = {"model": model, "source": source, "algorithm": algorithm}
    with run_place(run_dir) as place:
        _embed(wanted, place, lambda _: None, trust=trust, **own)
        elsewhere = place.mirror is not None and wanted.out is None
        return place.locate(_WRITTEN) if elsewhere else _path(wanted, place)


def embed_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: embed with a progress bar, then say what was written."""
    wanted = checked(EmbedConfig, settings, "")
    with Progress(transient=True) as progress, run_place(wanted.run_dir) as place:
        bar = progress.add_task("embedding", total=1.0)
        arrays = _embed(
            wanted,
            place,
            lambda share: progress.update(bar, completed=share),
            trust=trusts(overrides),
        )
    num_rows, num_features = arrays["features"].shape
    counts = ", ".join(f"{(arrays['class_splits'] == s).sum():,} {s}" for s in SPLITS)
    console = Console()
    console.print(f"{num_rows:,} vectors of {num_features:,} features; classes: {counts}")
    shown = _shown(wanted, place)
    word = override_word("task.file", shown)
    for line in (
        f"wrote     {shown}",
        f"next      dmeta train experiment=features_5w1s_leo {word}",
    ):
        console.print(safe_text(line, console), soft_wrap=True)


def _embed(
    wanted: EmbedConfig,
    place: RunPlace,
    on_progress: Callable[[float], None],
    *,
    trust: bool,
    model: nn.Module | None = None,
    source: TaskSource | None = None,
    algorithm: Any = None,
) -> dict[str, Any]:
    path = _path(wanted, place)
    _check_new(path, wanted, place)
    saved = read_saved(place)
    own = {"model": model, "source": source, "algorithm": algorithm}
    saved.check_own(own, place.name, f"dmeta.embed({place.name!r}")
    config = with_root(saved.config, wanted.root)
    if not trust:
        check_saved(config.as_mapping(), place.name, typed=typed_root(wanted.root))
    network, params = _network(saved, config, wanted, place, model, algorithm)
    source = _listing(config, source)
    device = local_device(wanted.device)
    if device != "cpu":
        set_up_gpu(config.compute.precision)
    arrays = embed_source(
        network,
        params,
        source,
        device=device,
        batch_size=wanted.batch_size,
        statistics_examples=wanted.statistics_examples,
        seed=config.seed,
        on_progress=on_progress,
    )
    write_features(path, arrays)
    place.push()
    return arrays


def _network(
    saved: SavedRun,
    config: RunConfig,
    wanted: EmbedConfig,
    place: RunPlace,
    model: nn.Module | None,
    algorithm: Any,
) -> tuple[Network, Params]:
    """The run's network without an output layer, and its parameters at the checkpoint."""
    method = ALGORITHMS[config.algorithm.name].make if algorithm is None else algorithm
    if model is not None and not embeds(method):
        raise ValueError(
            "a custom model must belong to a method that embeds, whose network has no output "
            f"layer, got {config.algorithm.name}; train protonet with it"
        )
    meta_params = find_checkpoint(place.folder, config, wanted.checkpoint).meta_params()
    shapes = saved.shapes
    inputs = made_up_inputs(shapes.input_shape, shapes.input_dtype)
    network = make_network(config, shapes.input_shape, None, model, inputs)
    return network, embedding_params(network, meta_params)


def _path(wanted: EmbedConfig, place: RunPlace) -> Path:
    """Where the file is written."""
    return folder_here(wanted.out, "out") if wanted.out else place.folder / _WRITTEN


def _shown(wanted: EmbedConfig, place: RunPlace) -> str:
    """Where the user finds the file."""
    return wanted.out or place.locate(_WRITTEN)


def _check_new(path: Path, wanted: EmbedConfig, place: RunPlace) -> None:
    if path.exists() if wanted.out else place.has(_WRITTEN):
        raise ValueError(
            f"out must be new, got {_shown(wanted, place)}; delete it, or choose another out"
        )
    if wanted.out is not None:
        check_folder(path.parent, "out")


def _listing(config: RunConfig, source: TaskSource | None) -> TaskSource:
    source = make_source(config) if source is None else source
    if not isinstance(source, ListsExamples):
        raise ValueError(
            "the run's task must be a data set whose examples can be listed, got "
            f"{config.task.source.name}; choose a run on images"
        )
    return source
