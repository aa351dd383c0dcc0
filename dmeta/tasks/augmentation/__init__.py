"""Random changes of training images, by name: ``task.augment=[crop,flip,color]``.

Looking up names imports neither torch nor torchvision.
"""

from __future__ import annotations

from typing import Any

from dmeta.registry import LazyEntry, Registry

AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation",
    {
        "color": LazyEntry(
            "dmeta.tasks.augmentation.transforms:color",
            "brightness, contrast, saturation (and hue) at random",
            "torchvision.transforms.v2.ColorJitter; as Chen et al. 2019, arXiv:1904.04232",
        ),
        "crop": LazyEntry(
            "dmeta.tasks.augmentation.transforms:crop",
            "padded, then cut to its size at random: a shift",
            "torchvision.transforms.v2.RandomCrop; as Tian et al. 2020, arXiv:2003.11539",
        ),
        "flip": LazyEntry(
            "dmeta.tasks.augmentation.transforms:flip",
            "mirrored at random",
            "torchvision.transforms.v2.RandomHorizontalFlip",
        ),
        "rand_augment": LazyEntry(
            "dmeta.tasks.augmentation.transforms:rand_augment",
            "a few of 14 changes of shape and colour at random",
            "torchvision.transforms.v2.RandAugment; Cubuk et al. 2020, arXiv:1909.13719",
        ),
        "resized_crop": LazyEntry(
            "dmeta.tasks.augmentation.transforms:resized_crop",
            "a part of random size and place, resized",
            "torchvision.transforms.v2.RandomResizedCrop; as Chen et al. 2019, arXiv:1904.04232",
        ),
    },
)
"""Each makes a transform of one uint8 image [C, H, W] to one of the same shape."""
