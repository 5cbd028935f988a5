"""Every reader, fed with mutated files and with noise: a value, or a DataError of one line; little time and memory.

Mutations keep most of a valid file: flipped bits, extreme integers where headers have theirs, truncation, splices,
spans left out, doubled or moved. Compressed formats are mutated inside and outside of the compression. The default
suite tries 50 inputs a reader, `pytest -m slow` 10,000.
"""

from __future__ import annotations

import gzip
import io
import resource
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from test_data_cifar import NAMES, batch, binary, modern_pickle, official_pickle
from test_data_idx import idx_bytes
from test_data_large_images import archive, face, photographs, pictures
from test_data_tables import npy_bytes
from test_data_tfrecord import framed
from test_published_tables import classes_of_old_pandas, frame_pickle, sensors

from contraflow.data import read_image_folder, read_rows
from contraflow.data.formats.arrays import read_npy, read_npz
from contraflow.data.formats.csv_table import read_csv
from contraflow.data.formats.hdf5 import read_hdf5
from contraflow.data.formats.idx import read_idx
from contraflow.data.formats.matlab import read_matlab
from contraflow.data.formats.number_text import read_number_text
from contraflow.data.formats.pickled_frame import read_pickled_frame
from contraflow.data.formats.tables import read_parquet
from contraflow.data.sets.celeba_hq import read_celeba_hq
from contraflow.data.sets.cifar10 import read_cifar10, read_cifar_binary, read_cifar_python
from contraflow.data.sets.power import read_power_rows, read_power_text
from contraflow.data.sets.small_imagenet import read_small_imagenet
from contraflow.data.sets.svhn import read_svhn
from contraflow.errors import DataError
from mutations import EDITS, mutated

Pack = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Subject:
    """A reader with valid files to start from.

    Attributes:
        read: path to value.
        name: of the file, where it matters.
        valid: makes whole files, before compression.
        pack: compresses a mutated one; which of them is drawn.
    """

    read: Callable[[Path], object]
    name: str
    valid: Callable[[], list[bytes]]
    pack: tuple[Pack, ...] = (bytes,)


def image_files() -> list[bytes]:
    """A small picture in every format that is read, and in one that is not."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
    files = []
    for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "EPS"):
        stream = io.BytesIO()
        pixels.save(stream, form)
        files.append(stream.getvalue())
    return files


def matlab_file(compressed: bool) -> bytes:
    from scipy.io import savemat

    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    savemat(stream, {"X": pixels, "y": np.array([[10], [3]], dtype=np.uint8)}, do_compression=compressed)
    return stream.getvalue()


def pack_matlab(content: bytes) -> bytes:
    """All that follows the header of a file as one compressed variable."""
    body = zlib.compress(content[128:], 1)
    return content[:128] + struct.pack("<II", 15, len(body)) + body


def pack_npz(method: int) -> Pack:
    def pack(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("x.npy", content)
        return stream.getvalue()

    return pack


def npz_file(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def power_file() -> bytes:
    columns = {f"d{column}": np.arange(7) for column in (0, 2, 4, 5, 6)}
    return npz_file(runs=np.array([[3, 4], [20, 3]]), **columns)


def tar_file() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for place, name in enumerate(NAMES):
            content = binary(*batch(place, rows=1))
            member = tarfile.TarInfo(f"cifar-10/{name}.bin")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def small_archives() -> list[bytes]:
    return [archive(pictures(photographs(2)), form=form) for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def pack_sums(content: bytes) -> bytes:
    """An archive with the sum of every header put right, so that damage gets past it."""
    whole = bytearray(content)
    for place in range(0, len(whole) - 511, 512):
        if whole[place + 257 : place + 262] == b"ustar":
            whole[place + 148 : place + 156] = b" " * 8
            whole[place + 148 : place + 156] = b"%06o\0 " % sum(whole[place : place + 512])
    return bytes(whole)


def one_face() -> bytes:
    return face(photographs(1, 4)[0])


def parquet_files() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    files = []
    for compression in ("none", "snappy", "gzip", "zstd"):
        stream = io.BytesIO()
        table = pyarrow.table({"a": [1, 2, 2], "b": [0.5, 1.5, 2.5], "c": pyarrow.array([1, 0, 1], "int8")})
        parquet.write_table(table, stream, compression=compression)
        files.append(stream.getvalue())
    return files


def texts(*files: str) -> Callable[[], list[bytes]]:
    return lambda: [one.encode() for one in files]


def arrays() -> list[bytes]:
    every = [np.arange(12.0).reshape(3, 4), np.ones((2, 1, 3, 3), np.uint8), np.zeros((0, 2)), np.float32([[1, 2]])]
    return [*map(npy_bytes, every), npy_bytes(np.asfortranarray(every[0])), npy_bytes(np.zeros(2, "i4,f8"))]


def frame_pickles() -> list[bytes]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        classes = classes_of_old_pandas(monkeypatch)
        return [frame_pickle(classes, sensors(4)[:, :3], ["Time", "a", "b"], protocol) for protocol in (2, 4)]


def hdf5_files() -> list[bytes]:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["a"] = np.arange(6.0).reshape(2, 3)
        file.create_dataset("b", data=np.zeros((20, 3)), chunks=(5, 3), compression="gzip")
    return [stream.getvalue()]


POWER_HEADER = "Date;Time;Global_active_power;Global_reactive_power;Voltage;Global_intensity;a;b;c\n"
POWER_LINES = "16/12/2006;17:24:00;4.216;0.418;234.840;18.400;0.000;1.000;17.000\n"
GZIP: Pack = lambda content: gzip.compress(content, 1)  # noqa: E731
NPZ = (pack_npz(zipfile.ZIP_STORED), pack_npz(zipfile.ZIP_DEFLATED))
FACES = "train/train-r02-s-0000-of-0001.tfrecords"
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)

SUBJECTS = {
    "idx images": Subject(lambda p: read_idx(p, dimensions=3), "i", lambda: [idx_bytes(IMAGES)], (bytes, GZIP)),
    "idx labels": Subject(lambda p: read_idx(p, dimensions=1), "l", lambda: [idx_bytes(IMAGES[0, 0])], (bytes, GZIP)),
    "gzip of idx": Subject(lambda p: read_idx(p, dimensions=3), "i.gz", lambda: [GZIP(idx_bytes(IMAGES))]),
    "csv": Subject(read_csv, "t.csv", texts("a,b\n1,2\n-3.5,4e9\n", 'a;"b;c"\r\n1;2\r\n', "\ufeffx\t\u00e9\n1\t2\n")),
    "csv rows": Subject(read_rows, "t.csv", texts("a,b\n1,2\n3,4\n", "a,b\n1e39,2\n")),
    "power text": Subject(
        read_power_text, "p.txt", texts(POWER_HEADER + 2 * POWER_LINES, POWER_HEADER + POWER_LINES.replace("1", "?"))
    ),
    "power arrays": Subject(read_power_rows, "p.npz", lambda: [power_file()]),
    "cifar binary": Subject(
        lambda p: read_cifar_binary(p.read_bytes(), "b"), "b.bin", lambda: [binary(*batch(0, rows=2))]
    ),
    "cifar pickle": Subject(
        lambda p: read_cifar_python(p.read_bytes(), "b"),
        "b",
        lambda: [official_pickle(*batch(0, 1)), *(modern_pickle(*batch(0, 1), protocol=one) for one in (0, 2, 4))],
    ),
    "cifar archive": Subject(lambda p: read_cifar10([p]), "c.tar.gz", lambda: [tar_file()], (GZIP,)),
    "gzip of cifar": Subject(lambda p: read_cifar10([p]), "c.tar.gz", lambda: [GZIP(tar_file())]),
    "npy": Subject(read_npy, "a.npy", arrays),
    "npy rows": Subject(read_rows, "a.npy", arrays),
    "npz": Subject(read_npz, "a.npz", lambda: [npz_file(a=np.arange(6), b=np.ones((2, 2)))]),
    "npy in npz": Subject(read_rows, "a.npz", arrays, NPZ),
    "matlab": Subject(read_matlab, "s.mat", lambda: [matlab_file(False), matlab_file(True)], (bytes, pack_matlab)),
    "svhn": Subject(read_svhn, "s.mat", lambda: [matlab_file(False), matlab_file(True)]),
    "images": Subject(lambda p: read_image_folder(p.parent, size=4), "a.png", image_files),
    "imagenet archive": Subject(lambda p: read_small_imagenet(p, 8), "t.tar", small_archives, (bytes, pack_sums)),
    "imagenet folder": Subject(
        lambda p: read_small_imagenet(p.parent, 8), "a.png", lambda: list(pictures(photographs(2)).values())
    ),
    "tfrecords": Subject(
        lambda p: read_celeba_hq(p.parents[1], "train", 4), FACES, lambda: [2 * one_face(), one_face()]
    ),
    "tfrecord examples": Subject(
        lambda p: read_celeba_hq(p.parents[1], "train", 4), FACES, lambda: [one_face()[12:-4]], (framed,)
    ),
    "parquet": Subject(read_parquet, "t.parquet", parquet_files),
    "pickled frame": Subject(read_pickled_frame, "f.pickle", frame_pickles),
    "number text": Subject(
        lambda p: read_number_text(p, [0, 2]), "t.txt", texts("3 4\n1  2 3\n4.5 6e3 -7\n", "a b\r\n1 2 3 x\r\n")
    ),
    "gzip of number text": Subject(
        lambda p: read_number_text(p, [0, 2], delimiter=",", rows=5), "t.csv.gz", texts("# a,b,c\n1,2,3\n"), (GZIP,)
    ),
    "hdf5": Subject(lambda p: read_hdf5(p, ["a", "b"]), "h.hdf5", hdf5_files),
}


def fuzz(subject: Subject, folder: Path, examples: int) -> None:
    """Read `examples` inputs; the first that ends in anything but a value or a DataError is shown."""
    valid, path = subject.valid(), folder / subject.name
    path.parent.mkdir(exist_ok=True)
    for content in valid[:1]:
        path.write_bytes(subject.pack[-1](content))
        assert subject.read(path) is not None
    whole = st.tuples(st.sampled_from(valid), st.sampled_from(valid), EDITS, st.sampled_from(subject.pack))
    noise = st.tuples(st.binary(max_size=200), st.just(b""), st.just([]), st.sampled_from(subject.pack))

    @seed(2026)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn=st.integers(0, 9).flatmap(lambda one: noise if one == 0 else whole))
    def run(drawn: tuple[bytes, bytes, Sequence[tuple[int, int, int]], Pack]) -> None:
        content, other, edits, pack = drawn
        path.write_bytes(pack(mutated(content, other, edits)))
        start = time.process_time()
        said = ""
        try:
            subject.read(path)
        except DataError as error:
            said = str(error)
        assert "\n" not in said, "one line"
        assert time.process_time() - start < 5, "seconds of one small file"

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, f"{grown:.0f} MB for files of kilobytes"


@pytest.mark.parametrize("name", SUBJECTS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    fuzz(SUBJECTS[name], tmp_path, 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SUBJECTS)
def test_ten_thousand_mutated_files(name: str, tmp_path: Path) -> None:
    fuzz(SUBJECTS[name], tmp_path, 10_000)
