"""Writes files in the layout of torch.save, without PyTorch."""

import collections
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


class Saved:
    """A view of a storage (a flat array), as PyTorch pickles a tensor. Strides and offset count elements."""

    def __init__(self, storage: np.ndarray, shape: tuple, strides: tuple | None = None, offset: int = 0):
        if strides is None:
            strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        self.storage, self.shape, self.strides, self.offset = storage, shape, strides, offset

    def arguments(self) -> tuple:
        """Arguments of the call that creates the tensor."""
        return Storage(self.storage), self.offset, self.shape, self.strides, False, collections.OrderedDict()

    def __reduce__(self):
        return named("torch._utils", "_rebuild_tensor_v2"), self.arguments()


class Storage:
    """A flat array that is saved as a separate member."""

    def __init__(self, array: np.ndarray):
        self.array = array


class _Pickler(pickle._Pickler):  # the Python version: its `save_global` can name classes that do not exist
    def __init__(self, file, more: tuple = ()):
        super().__init__(file, protocol=2)
        self.storages, self.more = [], more

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        number = next((i for i, known in enumerate(self.storages) if known is value.array), len(self.storages))
        if number == len(self.storages):
            self.storages.append(value.array)
        kind = named("torch", f"{STORAGES[value.array.dtype.name]}Storage")
        return "storage", kind, str(number), "cpu", value.array.size, *self.more

    def reducer_override(self, value):
        if isinstance(value, np.ndarray):
            return Saved(value.reshape(-1), value.shape).__reduce__()
        return NotImplemented

    def save_global(self, value, name=None):
        self.write(f"c{value.__module__}\n{value.__qualname__}\n".encode())
        self.memoize(value)


def named(module: str, name: str, base: type = object) -> type:
    """A class that is pickled under the name `module.name` without being importable there."""
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def save(path: Path, tree) -> None:
    """Write a tree of plain values and arrays as torch.save would."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", file.getvalue())
        archive.writestr(f"{path.stem}/byteorder", "little")
        for number, array in enumerate(pickler.storages):
            archive.writestr(f"{path.stem}/data/{number}", array.tobytes())
        archive.writestr(f"{path.stem}/version", "3\n")


def save_legacy(path: Path, tree) -> None:
    """Write a tree of plain values and arrays as torch.save did before PyTorch 1.6."""
    file = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    for head in (0x1950A86A20F9469CFC6C, 1001, machine):
        pickle.dump(head, file, protocol=2)
    pickler = _Pickler(file, more=(None,))
    pickler.dump(tree)
    pickle.dump([str(number) for number in range(len(pickler.storages))], file, protocol=2)
    for array in pickler.storages:
        file.write(np.int64(array.size).tobytes() + array.tobytes())
    path.write_bytes(file.getvalue())
