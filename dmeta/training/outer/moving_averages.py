"""Meta-parameters that follow an average of what tasks show, instead of the outer optimiser.

    value <- value - rate * (value - mean over the tasks of what they show)

A method gives such a parameter the gradient (value - what the task shows), as of the penalty
1/2 |value - what the task shows|^2 (`dmeta.algorithms.algorithm.moving_averages`). The server takes
that part out of the mean meta-gradient before anything is clipped or measured.

Letters: P length of the whole vector, p of a server's part of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dmeta.bilevel.flat import Layout


class MovingAverages:
    """Those in a server's part of the vector."""

    def __init__(self, layout: Layout, rates: Mapping[str, float], begin: int, end: int) -> None:
        """Nothing was shown yet.

        Args:
            layout: of the whole vector [P].
            rates: name -> rate, in 0..1.
            begin: of the part.
            end: of the part.
        """
        ends = itertools.accumulate(math.prod(shape) for shape in layout.shapes)
        cuts = dict(zip(layout.names, itertools.pairwise([0, *ends]), strict=True))
        self._followed: list[tuple[slice, float]] = []
        for name, rate in rates.items():
            first, last = (min(max(cut, begin), end) - begin for cut in cuts[name])
            if first < last:
                self._followed.append((slice(first, last), rate))
        self._steps: list[Tensor] = []

    def take_from(self, mean: Tensor) -> None:
        """Take their steps out of the mean meta-gradient [p], which is changed.

        What is not finite stays so, and the step is rejected.
        """
        self._steps = [rate * mean[place] for place, rate in self._followed]
        for place, _ in self._followed:
            mean[place] *= 0

    def moved(self, vector: Tensor) -> list[Tensor]:
        """What becomes of their values in the part [p] by the steps that were taken out last."""
        steps = zip(self._followed, self._steps, strict=True)
        return [vector[place] - step for (place, _), step in steps]

    def write(self, vector: Tensor, values: Sequence[Tensor]) -> None:
        """Set them in the part [p], which is changed, to what `moved` gave."""
        for (place, _), value in zip(self._followed, values, strict=True):
            vector[place] = value
