"""Task sources by name; a new one is its own file, its YAML file, and its line here."""

from __future__ import annotations

from dmeta.registry import Entry, Registry
from dmeta.tasks.features import load_features
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.miniimagenet import load_miniimagenet
from dmeta.tasks.omniglot import load_omniglot
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import TaskSource

TASKS: Registry[TaskSource] = Registry(
    "task",
    {
        "features": Entry(
            load_features,
            "vectors that a trained network made of a data set (`dmeta embed`), from a file",
            "as the features of Rusu et al. 2019, arXiv:1807.05960",
        ),
        "glyphs": Entry(
            make_glyphs,
            "made-up characters, 28x28; needs no data, comparable with nothing published",
            "dmeta",
        ),
        "miniimagenet": Entry(
            load_miniimagenet,
            "100 classes of ImageNet, 84x84 colour",
            "Vinyals et al. 2016, arXiv:1606.04080; split of Ravi & Larochelle 2017",
        ),
        "omniglot": Entry(
            load_omniglot,
            "1,623 handwritten characters x 20 drawings, 28x28",
            "Lake et al. 2015; split of Vinyals et al. 2016, arXiv:1606.04080",
        ),
        "sinusoid": Entry(
            Sinusoid,
            "regression of sine waves; needs no data",
            "Finn et al. 2017, arXiv:1703.03400, sec. 5.1",
        ),
    },
)
