"""The files of the published data sets: names, folders, md5 sums and official addresses.

The sums of MNIST, Fashion-MNIST and of CIFAR-10's binary batches were compared with the files themselves; those of
SVHN and of CIFAR-10's Python release are the ones that their publishers and torchvision list.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class KnownFile:
    """One file of a published data set.

    Attributes:
        name: file name as published.
        folders: folders below the data root where it may lie; a download goes to the first.
        md5: published md5 sum in hexadecimal, or ``None`` where none is published.
        addresses: official addresses, tried in this order.
        also: other names under which the same content is accepted (unpacked, so without a published sum).
        unpacked: whether a folder of one of these names is accepted too, as the unpacked content.
    """

    name: str
    folders: tuple[str, ...]
    md5: str | None = None
    addresses: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unpacked: bool = False

    def places(self, root: Path) -> tuple[Path, ...]:
        """Every path where the file is looked for, in order."""
        return tuple(root / folder / name for name in (self.name, *self.also) for folder in self.folders)

    def find(self, root: Path) -> Path | None:
        """The first place that holds the file, or ``None``."""
        found = (path for path in self.places(root) if path.is_file() or (self.unpacked and path.is_dir()))
        return next(found, None)


Form = tuple[KnownFile, ...]
"""Files that together are one complete copy of a data set; a data set may come in several forms."""


def file_md5(path: Path) -> str:
    """md5 of a file in hexadecimal; a check against accidents, not against attackers."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _idx_form(folder: str, mirrors: tuple[str, ...], sums: dict[str, str]) -> Form:
    return tuple(
        KnownFile(
            name=f"{stem}.gz",
            folders=(f"{folder}/raw", folder),
            md5=md5,
            addresses=tuple(f"{mirror}{stem}.gz" for mirror in mirrors),
            also=(stem,),
        )
        for stem, md5 in sums.items()
    )


MNIST: Form = _idx_form(
    "MNIST",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)

FASHION_MNIST: Form = _idx_form(
    "FashionMNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)

_CIFAR10_PAGE = "https://www.cs.toronto.edu/~kriz/"


def _cifar_form(folder: str, suffix: str, sums: dict[str, str]) -> Form:
    return tuple(KnownFile(f"{stem}{suffix}", (f"CIFAR10/{folder}", folder), md5) for stem, md5 in sums.items())


def _cifar_archive(name: str, md5: str) -> Form:
    return (KnownFile(name, ("CIFAR10", "."), md5, (_CIFAR10_PAGE + name,)),)


CIFAR10_BINARY: Form = _cifar_form(
    "cifar-10-batches-bin",
    ".bin",
    {
        "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)

CIFAR10_PYTHON: Form = _cifar_form(
    "cifar-10-batches-py",
    "",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)

CIFAR10_BINARY_ARCHIVE: Form = _cifar_archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
CIFAR10_PYTHON_ARCHIVE: Form = _cifar_archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")

SVHN: Form = tuple(
    KnownFile(name, ("SVHN", "."), md5, (f"http://ufldl.stanford.edu/housenumbers/{name}",))
    for name, md5 in {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }.items()
)

POWER: Form = (KnownFile("power_raw.npz", ("POWER", ".")),)
"""A compact copy of the complete rows."""

POWER_TEXT: Form = (KnownFile("household_power_consumption.txt", ("POWER", ".")),)
"""As published: unpack it from set 235 of the UCI repository, archive.ics.uci.edu/dataset/235."""


def _imagenet_form(size: str) -> Form:
    return tuple(
        KnownFile(f"{split}_{size}.tar", ("ImageNet", "."), also=(f"{split}_{size}",), unpacked=True)
        for split in ("train", "valid")
    )


IMAGENET32: Form = _imagenet_form("32x32")
"""Published at image-net.org/small; without addresses, since each train archive is larger than `download` takes."""

IMAGENET64: Form = _imagenet_form("64x64")

CELEBA_HQ: Form = (KnownFile("celeba-tfr", ("CelebAHQ", "."), unpacked=True),)
"""The folder that celeba-tfr.tar unpacks to; Glow's README (github.com/openai/glow) says where the archive is."""
