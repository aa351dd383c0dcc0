"""Task sources by name; a new one is its own file and its entry here.

Looking up names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from dmeta.tasks.source import TaskSource

TASKS: Registry[TaskSource] = Registry(
    "task",
    {
        "aircraft": LazyEntry(
            "dmeta.tasks.datasets.aircraft:load_aircraft",
            "100 variants of aircraft, 84x84 colour",
            "Maji et al. 2013, arXiv:1306.5151; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
        "arrays": LazyEntry(
            "dmeta.tasks.in_memory:load_arrays",
            "your own arrays of images or vectors with labels, from an npz file",
            "dmeta",
            {"model": "conv4", "task.queries": 5},
        ),
        "chestx": LazyEntry(
            "dmeta.tasks.datasets.chestx:load_chestx",
            "7 findings in X-rays of chests, 84x84 colour; test classes only",
            "Wang et al. 2017, arXiv:1705.02315; as Guo et al. 2020, arXiv:1912.07200",
            {"model": "conv4", "task.queries": 15},
        ),
        "cifar_fs": LazyEntry(
            "dmeta.tasks.datasets.cifar_fs:load_cifar_fs",
            "100 classes of CIFAR-100, 32x32 colour",
            "Bertinetto et al. 2019, arXiv:1805.08136",
            {"model": "conv4", "task.queries": 15},
        ),
        "crop_disease": LazyEntry(
            "dmeta.tasks.datasets.crop_disease:load_crop_disease",
            "38 classes of leaves of crops, 84x84 colour; test classes only",
            "as Guo et al. 2020, arXiv:1912.07200",
            {"model": "conv4", "task.queries": 15},
        ),
        "cub": LazyEntry(
            "dmeta.tasks.datasets.cub:load_cub",
            "200 species of birds, 84x84 colour",
            "Wah et al. 2011; split of Chen et al. 2019, arXiv:1904.04232",
            {"model": "conv4", "task.queries": 15},
        ),
        "dtd": LazyEntry(
            "dmeta.tasks.datasets.dtd:load_dtd",
            "47 kinds of textures, 84x84 colour",
            "Cimpoi et al. 2014, arXiv:1311.3618; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
        "eurosat": LazyEntry(
            "dmeta.tasks.datasets.eurosat:load_eurosat",
            "10 kinds of land use from a satellite, 84x84 colour; test classes only",
            "Helber et al. 2019, arXiv:1709.00029; as Guo et al. 2020, arXiv:1912.07200",
            {"model": "conv4", "task.queries": 15},
        ),
        "fc100": LazyEntry(
            "dmeta.tasks.datasets.fc100:load_fc100",
            "100 classes of CIFAR-100 split by superclass, 32x32 colour",
            "Oreshkin et al. 2018, arXiv:1805.10123",
            {"model": "conv4", "task.queries": 15},
        ),
        "features": LazyEntry(
            "dmeta.tasks.features:load_features",
            "vectors that a trained network made of a data set (`dmeta embed`), from a file",
            "as the features of Rusu et al. 2019, arXiv:1807.05960",
            {"model": "mlp", "model.num_layers": 0, "task.queries": 15},
        ),
        "forecast": LazyEntry(
            "dmeta.tasks.forecast:load_forecast",
            "your own time series to forecast: a table with a series in each row",
            "dmeta; form and metrics: Makridakis et al. 2020 (M4)",
            {
                "model": "seasonal_mlp",
                "task.ways": 1,
                "task.shots": 10,
                "task.queries": 1,
            },
        ),
        "fungi": LazyEntry(
            "dmeta.tasks.datasets.fungi:load_fungi",
            "1,394 species of fungi, 84x84 colour",
            "Schroeder & Cui 2018; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
        "glyphs": LazyEntry(
            "dmeta.tasks.glyphs:make_glyphs",
            "made-up characters, 28x28; needs no data, comparable with nothing published",
            "dmeta",
            {"model": "conv4_strided", "task.queries": 5},
        ),
        "image_folder": LazyEntry(
            "dmeta.tasks.image_folder:load_image_folder",
            "your own pictures: a folder of class folders, or a csv file",
            "dmeta",
            {"model": "conv4", "task.queries": 5},
        ),
        "isic": LazyEntry(
            "dmeta.tasks.datasets.isic:load_isic",
            "7 kinds of lesions of the skin, 84x84 colour; test classes only",
            "Codella et al. 2019, arXiv:1902.03368; as Guo et al. 2020, arXiv:1912.07200",
            {"model": "conv4", "task.queries": 15},
        ),
        "miniimagenet": LazyEntry(
            "dmeta.tasks.miniimagenet:load_miniimagenet",
            "100 classes of ImageNet, 84x84 colour",
            "Vinyals et al. 2016, arXiv:1606.04080; split of Ravi & Larochelle 2017",
            {"model": "conv4", "task.queries": 15},
        ),
        "mixture": LazyEntry(
            "dmeta.tasks.mixture:make_mixture",
            "each task of one of several named sources, drawn by weight",
            "as Triantafillou et al. 2020, arXiv:1903.03096",
            {"model": "conv4"},
        ),
        "omniglot": LazyEntry(
            "dmeta.tasks.omniglot:load_omniglot",
            "1,623 handwritten characters x 20 drawings, 28x28",
            "Lake et al. 2015; split of Vinyals et al. 2016, arXiv:1606.04080",
            {"model": "conv4_strided", "task.queries": 1},
        ),
        "quickdraw": LazyEntry(
            "dmeta.tasks.datasets.quickdraw:load_quickdraw",
            "345 kinds of drawings, 28x28 grey",
            "Jongejan et al. 2016; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
        "series": LazyEntry(
            "dmeta.tasks.series:load_series",
            "your own time series with labels, from .ts files (UCR and UEA archives)",
            "dmeta; archives: Dau et al. 2019, arXiv:1810.07758",
            {"model": "mlp", "model.hidden": 128, "task.queries": 5},
        ),
        "sinusoid": LazyEntry(
            "dmeta.tasks.sinusoid:Sinusoid",
            "regression of sine waves; needs no data",
            "Finn et al. 2017, arXiv:1703.03400, sec. 5.1",
            {
                "model": "mlp",
                "task.ways": 1,
                "task.shots": 10,
                "task.queries": 10,
                # A short training that shows what the method does: fewer and larger steps than in
                # the paper (experiment=sinusoid_maml_10shot has the paper's), and the classical
                # comparison: a network trained on all tasks at once.
                "steps": 1000,
                "meta_batch_size": 64,
                "outer.lr": 0.005,
                "joint_baseline": True,
                "compute.block_size": 32,  # half of a step's tasks: two workers get one block each
            },
        ),
        "table": LazyEntry(
            "dmeta.tasks.table:load_table",
            "rows of your own table: regression in groups (task.group), or classification",
            "dmeta",
            {"model": "mlp", "task.ways": 1, "task.shots": 5, "task.queries": 5},
        ),
        "text": LazyEntry(
            "dmeta.tasks.text:load_text",
            "your own texts, as vectors of n-grams or of a sentence encoder: a table with labels",
            "dmeta; hashing: Weinberger et al. 2009, arXiv:0902.2206; encoder: arXiv:1907.04307",
            {"model": "mlp", "model.num_layers": 1, "model.hidden": 256, "task.queries": 5},
        ),
        "tiered_imagenet": LazyEntry(
            "dmeta.tasks.datasets.tiered_imagenet:load_tiered_imagenet",
            "608 classes of ImageNet split by superclass, 84x84 colour",
            "Ren et al. 2018, arXiv:1803.00676",
            {"model": "conv4", "task.queries": 15},
        ),
        "torchvision": LazyEntry(
            "dmeta.tasks.torchvision_images:load_torchvision",
            "MNIST, Fashion-MNIST, KMNIST, EMNIST, CIFAR-10, CIFAR-100, SVHN, USPS",
            "torchvision.datasets",
            {"model": "conv4", "task.queries": 15},
        ),
        "traffic_sign": LazyEntry(
            "dmeta.tasks.datasets.traffic_sign:load_traffic_sign",
            "43 German traffic signs, 84x84 colour; test classes only",
            "Stallkamp et al. 2011; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
        "vgg_flower": LazyEntry(
            "dmeta.tasks.datasets.vgg_flower:load_vgg_flower",
            "102 flowers, 84x84 colour",
            "Nilsback & Zisserman 2008; as Triantafillou et al. 2020",
            {"model": "conv4", "task.queries": 15},
        ),
    },
)
