"""The record of one volume in the index. Without torch, whose import takes seconds."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, overload

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from frost.errors import InputError
from frost.mri.sampling import MaskRecord
from frost.pipeline.params import Params
from frost.pipeline.processes.unfinished import unfinished

Layout = Literal[
    "fastmri", "fastmri_singlecoil", "fastmri_prostate", "m4raw", "ismrmrd", "bart", "cmrxrecon",
    "calgary_campinas",
    "snu2022", "snu2023", "snu2024", "snu2025", "snu2026",
]  # fmt: skip
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _inside(path: str) -> str:
    """`path` if it stays inside the folder it is relative to."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute() or "\0" in path:
        raise ValueError("a path inside the source folder is needed")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class Volume(Params):
    """A record of the index, a scan with one mask; nothing in it depends on its folder's place or times."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=200)]
    """Unique in its split, fit for a folder: sub-folder, file stem, then `.R4`, `.mask1` where needed."""
    split: Split
    file: RelativePath
    """The k-space file, relative to the source folder."""
    image_file: RelativePath | None
    """The image file of the SNU layouts."""
    layout: Layout
    patient: str
    """What `index.patient` finds in the file's name, else `patient_id`, else the stem of the name."""
    acquisition: str
    n_slices: Annotated[int, Field(ge=1)]
    n_coils: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    crop: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]
    """Size (y, x) of the reconstruction."""
    mask: MaskRecord
    target: Literal["file", "computed", "none"]
    has_clean_target: bool
    has_grappa: bool
    maximum: float | None
    """The file's own `max`, which official scorers use as the data range."""
    identity: str
    """sha256 of the contents; for an image and k-space pair, of both."""

    @property
    def key(self) -> str:
        """Unique in the whole index: names may repeat across splits (they do in SNU 2026)."""
        return f"{self.split}/{self.name}"

    def facts(self) -> dict[str, Any]:
        """What its images depend on, as JSON: all but the split, so that changing it costs nothing."""
        return self.model_dump(mode="json", exclude={"split"})


class Volumes(Sequence[Volume]):
    """Records of the index as the JSON that they are in its file: a seventh of the memory of the objects.

    A record is made anew each time that it is wanted. A data loader's processes have all of those they train on.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._first = array("Q", [0])  # of each record the first byte
        text = bytearray()
        for line in lines:
            text += line
            self._first.append(len(text))
        self._text = bytes(text)

    def __len__(self) -> int:
        return len(self._first) - 1

    @overload
    def __getitem__(self, i: int) -> Volume: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Volume]: ...
    def __getitem__(self, i: int | slice) -> Volume | Sequence[Volume]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        k = range(len(self))[i]
        return Volume.model_validate_json(self._text[self._first[k] : self._first[k + 1]])

    @classmethod
    def of(cls, volumes: Iterable[Volume]) -> "Volumes":
        """These, one after the other."""
        return cls(volume.model_dump_json().encode() for volume in volumes)


def write_index(folder: Path, index: Mapping[Split, Sequence[Volume]]) -> None:
    """`train.json`, `val.json`, `test.json`: JSON lists, one volume a line, so that a diff is readable."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [volume.model_dump_json() for volume in index[split]]
        fresh = folder / unfinished(f".{split}.json")
        fresh.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        fresh.replace(folder / f"{split}.json")


def read_index(file: Path) -> Volumes:
    """The volumes of one split. Raises InputError where the file is missing or is not an index."""
    try:
        text = file.read_bytes()
        if text.startswith(b"[\n") and text.endswith(b"\n]\n"):
            with suppress(ValidationError):  # then not as `write_index` writes it, or wrong
                return Volumes(_valid(line) for line in text[2:-3].split(b",\n"))
        return Volumes.of(TypeAdapter(list[Volume]).validate_json(text))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; the stage `index` makes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{file}: not an index: {where or 'file'}: {first['msg']}; `dvc repro index` makes it"
        ) from None


def _valid(line: bytes) -> bytes:
    Volume.model_validate_json(line)
    return line
