"""The figure of functions before and after adaptation, for 1-D regression: data in, PNG file out.

Letters: S support examples, N points at which a function is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes

from dmeta.algorithms.algorithm import Algorithm
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.types import Adapted, Examples, Params, Stage
from dmeta.reports.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    legend_below,
    new_figure,
    save,
)
from dmeta.runtime.messages import Block
from dmeta.tasks.source import EpisodeSize, Split, TaskSource
from dmeta.training.work.episodes import task_rng

_Array = npt.NDArray[np.floating[Any]]

_NUM_DRAWN = 400


@dataclass(frozen=True)
class FunctionPanel:
    """One task of 1-D regression and what a learner makes of it.

    Attributes:
        title: which task it is.
        support_x: [S] inputs the learner saw.
        support_y: [S] their targets.
        x: [N] inputs in rising order.
        truth: [N] the true function there.
        predictions: what (e.g. ``after 1 inner step``) -> [N] the learner's function there.
    """

    title: str
    support_x: _Array
    support_y: _Array
    x: _Array
    truth: _Array
    predictions: Mapping[str, _Array]


def adapted_functions(learners: Mapping[str, Sequence[FunctionPanel]], path: Path) -> Path:
    """The learnt functions before and after adaptation: a row per learner, a column per task.

    As in Finn et al. 2017 (arXiv:1703.03400), figure 2. Above each panel: the mean squared error
    on the drawn points, before and after.

    Args:
        learners: name -> its panels, of the same tasks in the same order.
        path: the PNG to write.

    Returns: `path`.
    Raises: ValueError: no panels, or learners with different numbers of them.
    """
    counts = {len(panels) for panels in learners.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"every learner must have the same tasks, at least one, got {sorted(counts)} panels; "
            "call function_panels with the same seed and num_tasks for all"
        )
    figure = new_figure(1.5 + 2.4 * len(learners))
    grid = figure.subplots(len(learners), counts.pop(), sharex=True, sharey="col", squeeze=False)
    for row, (name, panels) in zip(grid, learners.items(), strict=True):
        for axes, panel in zip(row, panels, strict=True):
            _draw_panel(axes, panel)
        row[0].set_ylabel(f"{name}\ny")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    shots = len(next(iter(learners.values()))[0].support_x)
    figure.suptitle(
        f"One function per task, {shots} support point{'s' if shots != 1 else ''}: "
        "before and after adaptation\n"
        "MSE: of each panel's one task, before → after the last inner step",
        fontsize=11,
    )
    legend_below(figure, grid[0][0], columns=6)
    return save(figure, path)


def function_panels(
    algorithm: Algorithm,
    meta_params: Params,
    source: TaskSource,
    size: EpisodeSize,
    seed: int,
    steps: Sequence[int] = (0, 1, 10),
    num_tasks: int = 3,
    split: Split = "test",
) -> list[FunctionPanel]:
    """Adapt to a few tasks of 1-D regression and tabulate the functions.

    With the seed of the evaluation these are its first tasks.

    Args:
        algorithm: a learner with inner steps.
        meta_params: its meta-parameters, on the CPU.
        source: a regression source with one input and one output.
        size: of the support set; the queries are those that are drawn.
        seed: of the tasks.
        steps: after how many inner steps the function is shown.
        num_tasks: how many panels.
        split: what the tasks are of.

    Raises:
        ValueError: the source is not 1-D regression, or the algorithm has no inner steps.
    """
    if (source.kind, source.input_shape, source.num_outputs(size.ways)) != ("regression", (1,), 1):
        raise ValueError(
            "functions can be drawn of regression with one input and one output, got "
            f"{source.kind} with inputs of shape {source.input_shape}; choose task=sinusoid"
        )
    learner: Any = algorithm
    learner = dataclasses.replace(learner, network=algorithm.network.to("cpu", training=False))
    panels = []
    for slot in range(num_tasks):
        rng = task_rng(seed, Block(split, 0, 0, slot, 1), slot)
        panels.append(_panel(learner, meta_params, source, size, rng, steps, split, slot))
    return panels


def _panel(
    learner: Algorithm,
    meta_params: Params,
    source: TaskSource,
    size: EpisodeSize,
    rng: np.random.Generator,
    steps: Sequence[int],
    split: Split,
    slot: int,
) -> FunctionPanel:
    task = source.draw(split, dataclasses.replace(size, queries=_NUM_DRAWN), rng)
    order = np.argsort(task.query_x[:, 0])
    support = Examples(
        source.preprocess(torch.from_numpy(task.support_x)), torch.from_numpy(task.support_y)
    )
    path: list[Adapted] = []
    query = source.preprocess(torch.from_numpy(task.query_x[order]))
    with torch.no_grad():
        stage = Stage(training=False, ways=size.ways, inner_steps=max(steps))
        learner.adapt(meta_params, support, recording(path.append), stage)
        if not path:
            raise ValueError(
                f"the algorithm must adapt by inner steps, got {type(learner).__name__}, which "
                "has none; choose algorithm=maml"
            )
        predictions = {_after(k): learner.predict(path[k], query)[:, 0].numpy() for k in steps}
    return FunctionPanel(
        title=f"{split} task {slot + 1}",
        support_x=task.support_x[:, 0].astype(np.float64),
        support_y=task.support_y[:, 0].astype(np.float64),
        x=task.query_x[order, 0].astype(np.float64),
        truth=task.query_y[order, 0].astype(np.float64),
        predictions=predictions,
    )


def _after(steps: int) -> str:
    if steps == 0:
        return "before adaptation"
    return f"after {steps} inner step{'s' if steps > 1 else ''}"


def _draw_panel(axes: Axes, panel: FunctionPanel) -> None:
    axes.plot(panel.x, panel.truth, color=GREY, linewidth=4.0, alpha=0.55, label="true function")
    styles = ((ORANGE, ":"), (GREEN, "--"), (BLUE, "-"), (PURPLE, "-."))
    for (name, y), (colour, dashes) in zip(panel.predictions.items(), styles, strict=False):
        axes.plot(panel.x, y, color=colour, linestyle=dashes, linewidth=1.7, label=name)
    axes.plot(
        panel.support_x, panel.support_y, linestyle="none", marker="o", markersize=5.5,
        markerfacecolor=BLACK, markeredgecolor="white", label="support points", zorder=5,
    )  # fmt: skip
    errors = [float(np.mean((y - panel.truth) ** 2)) for y in panel.predictions.values()]
    axes.set_title(f"{panel.title}\nMSE {errors[0]:.3g} → {errors[-1]:.3g}", fontsize=9.5)
    axes.grid(color="#E4E4E4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
