"""Tasks of several sources: each task, or mini-batch, is of one of them, which is drawn by weight.

For training over several data sets, as in Meta-Dataset (Triantafillou et al. 2020,
arXiv:1903.03096) or for universal representations (Li et al. 2021, arXiv:2103.13841). Which member
a task is of follows from the task's own generator; a split has the members' classes of that split.
Images of several sizes become one size, and grey ones colour, when they are drawn: the tasks of a
block are stacked in the form in which they are stored. What the members are is unknown here.

Letters: N examples, V classes of a split of one member, B examples of a mini-batch.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.types import Kind
from dmeta.options import NamedOptions, checked_options, named_options
from dmeta.tasks import TASKS
from dmeta.tasks.inputs import InputForm, image_input, input_form_of
from dmeta.tasks.sizes import check_split
from dmeta.tasks.source import (
    DrawnBatch,
    DrawnTask,
    DrawsBatches,
    EpisodeSize,
    ListsExamples,
    Sampler,
    Split,
    TaskSource,
    draws_batches,
    samplers_of,
)

_KEY, _ROOT = "task.sources", "root"


@dataclass(frozen=True, eq=False)
class Member:
    """One of the sources.

    Attributes:
        name: by which messages and classes name it; no two members share one.
        source: draws its tasks.
        share: of the tasks that are its, in 0..1.
    """

    name: str
    source: TaskSource
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Mixture:
    """Tasks of several sources that agree on the kind of task and the shape of an example.

    Attributes:
        members: the sources.
        input_shape: of one example of each, as the network sees it.
        input_form: ``images``: of images, stored as uint8 [H, W, C]. Otherwise examples are stored
            as the network sees them.
        choices: name and options of each source, as they were asked for.
    """

    members: tuple[Member, ...]
    input_shape: tuple[int, ...]
    input_form: InputForm | None
    choices: tuple[NamedOptions, ...] = ()

    def __repr__(self) -> str:
        shares = ", ".join(f"{each.name} {each.share:.3g}" for each in self.members)
        return f"Mixture({shares})"

    @property
    def noted_options(self) -> dict[str, Any]:
        """Options that a run notes: the sources with the check sums of their data, if any has."""
        sums = [getattr(each.source, "sha256", None) for each in self.members]
        if not any(sums):
            return {}
        noted: list[str | dict[str, Any]] = []
        for choice, sha256 in zip(self.choices, sums, strict=True):
            options = dict(choice.options) | ({} if sha256 is None else {"sha256": sha256})
            noted.append({"name": choice.name, **options} if options else choice.name)
        return {"sources": noted}

    @property
    def kind(self) -> Kind:
        """That of all members."""
        return self.members[0].source.kind

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Those that all members follow."""
        first, *others = (samplers_of(each.source) for each in self.members)
        return tuple(name for name in first if all(name in known for known in others))

    def num_outputs(self, ways: int) -> int:
        """That of all members.

        Raises:
            ValueError: they differ.
        """
        found = {each.name: each.source.num_outputs(ways) for each in self.members}
        if len(set(found.values())) > 1:
            raise _differ("have outputs of one width", found, "choose others")
        return next(iter(found.values()))

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if a member that tasks are drawn of has no such task."""
        check_split(split)
        for member in self._drawn_members:
            try:
                member.source.check(split, size)
            except ValueError as error:
                raise ValueError(f"{error} (of {member.name} in {_KEY})") from error

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """A task of one member."""
        self.check(split, size)
        member = self.members[self._draw_place(rng)]
        task = member.source.draw(split, size, rng)
        support_x, query_x = (self._stored(member, x) for x in (task.support_x, task.query_x))
        return DrawnTask(support_x, task.support_y, query_x, task.query_y)

    def preprocess(self, x: Tensor) -> Tensor:
        """uint8 [..., H, W, C] -> float32 [..., C, H, W] in [0, 1]; what is no image, as it is."""
        return image_input(x, has_channels=True) if self.input_form == "images" else x

    def class_sizes(self, split: Split) -> tuple[int, ...]:
        """V of each member.

        Raises:
            ValueError: a member draws no mini-batches, or has no class of this split.
        """
        sizes = tuple(_of_batches(each).num_classes(split) for each in self.members)
        for member, size in zip(self.members, sizes, strict=True):
            if member.share > 0 and size == 0:
                raise ValueError(
                    f"each of {_KEY} must have classes in split {split!r}, got none in "
                    f"{member.name}; remove it"
                )
        return sizes

    def num_classes(self, split: Split) -> int:
        """The sum of `class_sizes`."""
        return sum(self.class_sizes(split))

    def draw_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """B examples of one member, labelled after the classes of the members before it."""
        check_split(split)
        first = [0, *itertools.accumulate(self.class_sizes(split))]
        place = self._draw_place(rng)
        member = self.members[place]
        try:
            x, y = _of_batches(member).draw_batch(split, num_examples, rng)
        except ValueError as error:
            raise ValueError(f"{error} (of {member.name} in {_KEY})") from error
        return DrawnBatch(self._stored(member, x), y + first[place])

    def split_class_names(self, split: Split) -> tuple[str, ...]:
        """Names of the classes of all members, as ``omniglot/Greek/character01/rot090``."""
        return tuple(
            f"{member.name}/{name}"
            for member in self.members
            for name in _listing(member).split_class_names(split)
        )

    def class_examples(self, split: Split, place: int) -> npt.NDArray[np.generic]:
        """All examples of the class at `place` among those of all members."""
        for member in self.members:
            listing = _listing(member)
            size = len(listing.split_class_names(split))
            if place < size:
                return self._stored(member, listing.class_examples(split, place))
            place -= size
        raise IndexError(f"split {split!r} has {place} classes fewer than that")

    @property
    def _drawn_members(self) -> list[Member]:
        return [each for each in self.members if each.share > 0]

    def _draw_place(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self.members), p=[each.share for each in self.members]))

    def _stored(self, member: Member, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A member's examples [N, ...] in the form that those of all members are stored in."""
        if self.input_form == "images":
            return _joined_images(x, self.input_shape)
        found: npt.NDArray[Any] = member.source.preprocess(torch.from_numpy(x)).numpy()
        return found


def make_mixture(
    *,
    sources: tuple[str | Mapping[str, Any], ...] = (),
    weights: tuple[NonNegativeFloat, ...] | None = None,
    image_size: PositiveInt | None = None,
    channels: Literal[1, 3] | None = None,
    root: str | None = None,
) -> Mixture:
    """Tasks of several sources.

    Args:
        sources: names of task sources, each with its usual options, or groups of a name and
            options: ``[omniglot, {name: glyphs, seed: 1}]``.
        weights: how often a task is of each source, in proportion; 0: never, but its classes keep
            their numbers. None: all equally often.
        image_size: height and width that images are resized to (bilinear, antialiased); None: they
            must have one size.
        channels: of all images; with 3, grey ones are repeated; None: they must agree.
        root: the data root of sources without a ``root`` of their own, a folder or an address; None
            means DMETA_DATA, else ./data.

    Raises:
        MissingDataError: a source's data is not there.
        ValueError: an option is out of range, or the sources do not go together.
    """
    if not sources:
        raise ValueError(
            f"{_KEY} must name the task sources, got none; set {_KEY}=[omniglot,glyphs]"
        )
    shares = _shares(weights, len(sources))
    groups = ({"name": s} if isinstance(s, str) else s for s in sources)
    choices = tuple(named_options(group, _KEY) for group in groups)
    for choice in choices:
        TASKS[choice.name]  # unknown names are refused before data is read
    names: list[str] = []
    for choice in choices:
        number = 1 + sum(each.partition("#")[0] == choice.name for each in names)
        names.append(choice.name if number == 1 else f"{choice.name}#{number}")
    made = [_make(choice.name, choice.options, root) for choice in choices]
    members = tuple(map(Member, names, made, shares))
    kinds = {each.name: each.source.kind for each in members}
    if len(set(kinds.values())) > 1:
        raise _differ("be of one kind", kinds, "remove those of the other kind")
    forms = {input_form_of(each.source) for each in members}
    if forms == {"images"}:
        shape = _image_shape(members, image_size, channels)
        return Mixture(members, shape, "images", choices)
    for key, value in (("image_size", image_size), ("channels", channels)):
        if value is not None:
            raise ValueError(
                f"task.{key} must be null where not all of {_KEY} are images, got {value}; "
                "remove it"
            )
    shapes = {each.name: each.source.input_shape for each in members}
    if len(set(shapes.values())) > 1:
        raise _differ("give examples of one shape", shapes, "choose others")
    form = forms.pop() if len(forms) == 1 else None
    return Mixture(members, members[0].source.input_shape, form, choices)


def _make(name: str, options: Mapping[str, Any], root: str | None) -> TaskSource:
    make = TASKS[name].make
    choice = named_options({"name": name, **options}, _KEY)
    found = checked_options(make, choice, f"{_KEY}.{name}")
    parameter = inspect.signature(make).parameters.get(_ROOT)
    if root is not None and parameter is not None and parameter.default is None:  # the data root
        found.setdefault(_ROOT, root)
    return make(**found)


def _shares(weights: Sequence[float] | None, num_sources: int) -> list[float]:
    if weights is None:
        weights = [1.0] * num_sources
    if len(weights) != num_sources or not sum(weights) > 0:
        example = ",".join(["1"] * num_sources)
        raise ValueError(
            f"task.weights must be one number for each of {_KEY} ({num_sources}), not all 0, got "
            f"{list(weights)}; set task.weights=[{example}]"
        )
    total = sum(weights)
    return [weight / total for weight in weights]


def _image_shape(
    members: Sequence[Member], image_size: int | None, channels: int | None
) -> tuple[int, ...]:
    """(channels, height, width) of the images of all members.

    Raises:
        ValueError: they differ and the options do not say what they are to be.
    """
    shapes = {each.name: each.source.input_shape for each in members}
    lacking = []
    sizes = {shape[1:] for shape in shapes.values()}
    if image_size is None and len(sizes) > 1:
        lacking.append(f"task.image_size={min(map(min, sizes))}")
    found = {shape[0] for shape in shapes.values()}
    if channels is None and len(found) > 1:
        lacking.append("task.channels=3")
    if lacking:
        raise _differ("give images of one shape", shapes, f"set {' '.join(lacking)}")
    if channels is not None and max(found) > channels:
        raise _differ(f"give images of at most task.channels={channels}", shapes, "set it to 3")
    size = sizes.pop() if image_size is None else (image_size, image_size)
    return (found.pop() if channels is None else channels, *size)


def _joined_images(x: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """uint8 images [N, H, W] or [N, H, W, C] -> uint8 [N, height, width, channels] of `shape`."""
    channels, height, width = shape
    images = x[..., None] if x.ndim == 3 else x
    if images.shape[1:3] != (height, width):
        planes = torch.from_numpy(images).movedim(-1, 1)  # channels last in memory: the fast way
        resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        images = resized.movedim(1, -1).numpy()
    return np.repeat(images, channels // images.shape[-1], axis=-1)


def _of_batches(member: Member) -> DrawsBatches:
    if not draws_batches(member.source):
        raise ValueError(
            f"each of {_KEY} must draw mini-batches (dmeta.tasks.source.DrawsBatches) for this "
            f"algorithm, got {member.name}, which does not; remove it, or choose another algorithm"
        )
    return member.source


def _listing(member: Member) -> ListsExamples:
    if not isinstance(member.source, ListsExamples):
        raise ValueError(
            f"each of {_KEY} must list its examples (dmeta.tasks.source.ListsExamples), got "
            f"{member.name}, which does not; remove it"
        )
    return member.source


def _differ(must: str, found: Mapping[str, Any], remedy: str) -> ValueError:
    """The refusal of members that differ in what they have to agree on."""
    got = ", ".join(f"{name}: {value}" for name, value in found.items())
    return ValueError(f"all of {_KEY} must {must}, got {got}; {remedy}")
