"""Spaces in Tune's terms, and the searcher that draws points from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.search_algorithm import SearchAlgorithm

from dmeta.search.options import SearchOptions
from dmeta.search.space import Choice, Dimension, Point, Space, Value, grid, meets, resolved_point


class Sampling(NamedTuple):
    """A space as Tune takes it.

    Attributes:
        param_space: Tune's domains; empty where the searcher has them.
        searcher: draws points.
        num_samples: how many.
    """

    param_space: dict[str, Any]
    searcher: Searcher | SearchAlgorithm
    num_samples: int


def sampling_of(
    space: Space,
    options: SearchOptions,
    metric: str,
    mode: str,
    digest: Callable[[Mapping[str, Value]], str],
    tried: Sequence[Point] = (),
) -> Sampling:
    """Domains and searcher for a space.

    Args:
        space: what is searched.
        options: how.
        metric: key of a report, for searchers that learn.
        mode: ``max`` or ``min``: which way it is better.
        digest: equal for settled points that mean the same settings: a grid has one of them.
        tried: points of a search that is extended, not settled. Random draws come again by
            themselves, so does a grid; ``optuna`` begins with these.

    Raises:
        ValueError: a package is missing, or the space is not one for this sampler.
    """
    if options.sampler == "grid":
        different = {digest(resolved_point(point)): point for point in reversed(grid(space))}
        points = list(reversed(different.values()))[: options.num_trials]
        searcher = BasicVariantGenerator(
            points_to_evaluate=points,
            max_concurrent=options.max_concurrent or 0,
            random_state=options.seed,
        )
        return Sampling(domains_of(space), searcher, len(points))
    assert options.num_trials is not None
    if options.sampler == "random":
        # Tune itself would not limit one that it is given.
        searcher = BasicVariantGenerator(
            max_concurrent=options.max_concurrent or 0, random_state=options.seed
        )
        return Sampling(domains_of(space), searcher, options.num_trials)
    _check_scalars(space, options.sampler)
    if options.sampler == "optuna":
        return _optuna(space, options, metric, mode, tried)
    return _bohb(space, options, metric, mode)


def domains_of(space: Space) -> dict[str, Any]:
    """A space as Tune takes it; what stands under a condition in a group of its own."""
    domains: dict[str, Any] = {key: domain_of(d) for key, d in space.dimensions.items()}
    return domains | {condition: domains_of(s) for condition, s in space.conditions.items()}


def domain_of(dimension: Dimension) -> Any:
    """One of Tune's domains."""
    if isinstance(dimension, Choice):
        return tune.choice(list(dimension.values))
    if dimension.whole:
        draw = tune.lograndint if dimension.log else tune.randint
        return draw(int(dimension.low), int(dimension.high) + 1)  # theirs is without its end
    return (tune.loguniform if dimension.log else tune.uniform)(dimension.low, dimension.high)


def _optuna(
    space: Space, options: SearchOptions, metric: str, mode: str, tried: Sequence[Point]
) -> Sampling:
    from ray.tune.search.optuna import OptunaSearch

    _check_package("optuna", "optuna", "'optuna>=4'")
    points = [dict(_flat(point)) for point in tried]
    searcher = OptunaSearch(
        _Asking(space), metric=metric, mode=mode, seed=options.seed, points_to_evaluate=points
    )
    assert options.num_trials is not None
    return Sampling({}, searcher, options.num_trials)


def _flat(point: Point, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """A point's values under the names that Optuna knows them by."""
    for key, value in point.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


@dataclass(frozen=True)
class _Asking:
    """Optuna's way to say a space, in which what was chosen decides what is asked next."""

    space: Space
    prefix: str = ""

    def __call__(self, trial: Any) -> None:
        chosen: dict[str, Value] = {}
        for key, dimension in self.space.dimensions.items():
            name = f"{self.prefix}{key}"
            if isinstance(dimension, Choice):
                chosen[key] = trial.suggest_categorical(name, list(dimension.values))
            elif dimension.whole:
                ends = int(dimension.low), int(dimension.high)
                chosen[key] = trial.suggest_int(name, *ends, log=dimension.log)
            else:
                chosen[key] = trial.suggest_float(
                    name, dimension.low, dimension.high, log=dimension.log
                )
        for condition, inner in self.space.conditions.items():
            if meets(chosen, condition):
                _Asking(inner, f"{self.prefix}{condition}/")(trial)


def _bohb(space: Space, options: SearchOptions, metric: str, mode: str) -> Sampling:
    from ray.tune.search.bohb import TuneBOHB

    _check_package("bohb", "hpbandster", "hpbandster ConfigSpace")
    searcher = TuneBOHB(metric=metric, mode=mode, seed=options.seed)
    assert options.num_trials is not None
    return Sampling(domains_of(space), searcher, options.num_trials)


def _check_package(sampler: str, name: str, packages: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise ValueError(
            f"search.sampler={sampler} must have the package {name}, got none; "
            f"pip install {packages}, or choose another search"
        )


def _check_scalars(space: Space, sampler: str) -> None:
    for key, dimension in space.every_dimension():
        lists = [v for v in dimension.values or () if isinstance(v, list | tuple | Mapping)]
        if lists:
            raise ValueError(
                f"search.sampler={sampler} must have single values to choose from, got "
                f"{key}={lists[0]}; choose search=random"
            )
