"""Tensors of a PyTorch file of the format before 1.6, without PyTorch and without running what a pickle may hold."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from macl_tf.files import sha256_of

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
# Name and type of a storage, then offset, shape and strides in it.
_Place = tuple[str, np.dtype[Any], int, tuple[int, ...], tuple[int, ...]]


def read_tensors(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict by name, after its digest was found right.

    Args:
        path: File that `torch.save` of PyTorch before 1.6 wrote.
        sha256: Digest that the file must have, 64 hexadecimal digits.

    Returns:
        Arrays of the shapes that PyTorch gives them.

    Raises:
        ValueError: For a file of another digest, which is not opened, or of another content.
    """
    if (found := sha256_of(path)) != sha256:
        raise ValueError(f"'{path}' must have the SHA-256 {sha256}, got {found}. Install its package anew.")
    with path.open("rb") as file:
        if _Reader(file).load() != _MAGIC:
            raise ValueError(f"'{path}' must be a PyTorch file of the format before 1.6, got another.")
        for _ in ("protocol version", "system information"):
            _Reader(file).load()
        places: dict[str, _Place] = _Reader(file).load()
        kinds = {key: dtype for key, dtype, *_ in places.values()}
        storages = {}
        for key in _Reader(file).load():
            count = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(count * kinds[key].itemsize), kinds[key], count)
    return {name: _tensor(storages[place[0]], *place[2:]) for name, place in places.items()}


def _tensor(storage: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[Any]:
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or last >= len(storage):
        raise ValueError(f"a tensor must lie within its storage of {len(storage)} numbers, got {shape} at {offset}.")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


class _Reader(pickle.Unpickler):
    """Knows four names, none of which runs anything."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """The places of tensors instead of tensors; a ValueError for all else."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (*storage, offset, shape, strides)
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise ValueError(f"a file of weights must hold tensors alone, got {module}.{name}.")

    def persistent_load(self, key: Any) -> tuple[str, np.dtype[Any]]:
        """A storage, as its name and type."""
        return key[2], key[1]
