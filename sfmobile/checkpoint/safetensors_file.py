"""One safetensors file: shapes from its header, tensors memory-mapped. Another format is named for what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sfmobile.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = frozenset({"F16", "BF16", "F32"})
# Read as float16, which holds every value of both.
NARROW_FLOATS = frozenset({"F8_E4M3", "F8_E5M2"})
_ZIP, _PICKLE, _GGUF = b"PK\x03\x04", b"\x80", b"GGUF"


class _Slice(Protocol):
    def get_dtype(self) -> str: ...

    def get_shape(self) -> list[int]: ...


class _Handle(Protocol):
    """What we use of `safetensors.safe_open`, which has no types of its own."""

    def keys(self) -> list[str]: ...

    def metadata(self) -> dict[str, str] | None: ...

    def get_slice(self, name: str) -> _Slice: ...

    def get_tensor(self, name: str) -> Tensor: ...


class SafetensorsFile(Mapping[str, "Tensor"]):
    """Tensors of the file `path` by name, read when they are asked for; 8-bit floats come as float16.

    what: such as "a LoRA". Raises `ArtifactError` for a missing, cut or pickled file.
    """

    def __init__(self, path: Path, what: str = "a safetensors file") -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        if not path.is_file():
            found = (
                "is a directory" if path.is_dir() else "doesn't exist" if not path.exists() else "is no regular file"
            )
            raise ArtifactError(f"'{path}' {found}; expected {what}, a .safetensors file.")
        try:
            handle: _Handle = safe_open(path, framework="pt")
        except PermissionError as error:
            raise ArtifactError(
                f"{path} can't be read ({error.strerror or error}); let this user read it, or copy it again."
            ) from error
        except (SafetensorError, OSError) as error:
            refuse_other_formats(path, what)
            raise ArtifactError(
                f"{path} is not a whole safetensors file ({error}; {path.stat().st_size} bytes found); copy or "
                "download it again."
            ) from error
        self._handle = handle
        self._names = handle.keys()
        self.metadata = handle.metadata() or {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for name in self._names:
            entry = handle.get_slice(name)
            self._shapes[name], self._dtypes[name] = tuple(entry.get_shape()), entry.get_dtype()

    def __getitem__(self, name: str) -> Tensor:
        import torch

        tensor = self._handle.get_tensor(name)
        return tensor.to(torch.float16) if self._dtypes[name] in NARROW_FLOATS else tensor

    def __contains__(self, name: object) -> bool:
        # `Mapping` would read the tensor.
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Stored shape, from the header alone."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Stored type, as the header writes it ("F16")."""
        return self._dtypes[name]


def refuse_other_formats(path: Path, what: str) -> None:
    """Raise `ArtifactError` for a pickle or a GGUF file, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == _GGUF:
        raise ArtifactError(
            f"{path} is a GGUF file, whose weights are quantised in blocks; expected {what} as .safetensors: take the "
            "file it was made from."
        )
    if start == _ZIP or start[:1] == _PICKLE:
        raise ArtifactError(
            f"{path} is a pickle, which can run code when it is opened; expected {what} as .safetensors: convert it on "
            "a machine that may run it, with torch.load(…, weights_only=True) and safetensors.torch.save_file."
        )
