"""Fetching the published data sets, each file checked by its SHA-256."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyconv._errors import FormatError
from pyconv.data import cifar

_CHUNK = 2**16
_TIMEOUT = 30  # seconds without a byte


class File(NamedTuple):
    """Where a file is published, its digest, and the folder it belongs in."""

    url: str
    sha256: str
    folder: str


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_MNIST_DIGESTS = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION_DIGESTS = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_CIFAR10 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_CIFAR100 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
SOURCES = {
    "mnist": [
        File(f"{_MNIST}{name}-ubyte.gz", digest, "mnist")
        for name, digest in zip(_IDX, _MNIST_DIGESTS, strict=True)
    ],
    "fashion": [
        File(f"{_FASHION}{name}-ubyte.gz", digest, "fashion")
        for name, digest in zip(_IDX, _FASHION_DIGESTS, strict=True)
    ],
    "cifar10": [File(f"{_CIFAR}cifar-10-binary.tar.gz", _CIFAR10, "cifar-10-batches-bin")],
    "cifar100": [File(f"{_CIFAR}cifar-100-binary.tar.gz", _CIFAR100, "cifar-100-binary")],
}


def download(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Fetch a data set ("mnist", "fashion", "cifar10", "cifar100") into `data_dir`, by default the
    environment variable PYCONV_DATA. Shows a bar where tqdm is installed.

    Raises ValueError for an unknown name or no directory, ConnectionError where a file cannot be
    fetched (the text says what to put where), pyconv.FormatError where it is not the published one.
    """
    if name not in SOURCES:
        raise ValueError(f"data.download: name must be one of {', '.join(SOURCES)}, got {name!r}")
    chosen = data_dir or os.environ.get("PYCONV_DATA")
    if not chosen:
        raise ValueError("data.download: no directory; set PYCONV_DATA, data_dir= or --data-dir")
    for file in SOURCES[name]:
        folder = Path(chosen) / file.folder
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / file.url.rsplit("/", 1)[1]
            _fetch(file, path, folder)
            if path.name.endswith(".tar.gz"):
                _unpack(path, name, folder)
            else:
                os.replace(path, folder / path.name)


def _fetch(file: File, path: Path, folder: Path) -> None:
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(file.url, timeout=_TIMEOUT) as source,
            open(path, "wb") as target,
            _bar(path.name, source.headers.get("Content-Length")) as moved,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
                moved(len(chunk))
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"data.download: cannot fetch {file.url} ({error}); where there is no network, put "
            f"that file (or what it unpacks to) in {folder}"
        ) from error
    if digest.hexdigest() != file.sha256:
        raise FormatError(
            f"{file.url}: SHA-256 {digest.hexdigest()}, expected {file.sha256}: not the published "
            "file, nothing was kept"
        )


def _unpack(path: Path, name: str, folder: Path) -> None:
    """The files of the data set and no others, under our own names."""
    wanted = {file for split in ("train", "test") for file in cifar.files(name, split)[0]}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            file = Path(member.name).name
            content = archive.extractfile(member) if file in wanted else None
            if content is not None:
                (path.parent / file).write_bytes(content.read())
                os.replace(path.parent / file, folder / file)


@contextmanager
def _bar(name: str, size: str | None) -> Iterator[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    total = int(size) if size else None
    with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None) as bar:
        yield bar.update
