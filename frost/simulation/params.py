"""Section `simulate` of params.yaml: one simple world, or ranges from which each scan draws a world of its own."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, model_validator

from frost.pipeline.params import Params


def _both_ends(value: Any) -> Any:
    """A number is the range from itself to itself."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError("a range is one number or [low, high]")
        return tuple(value)
    return (value, value)


def _ordered(ends: tuple[float | int, float | int]) -> tuple[float | int, float | int]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range starts with its low end: [{ends[1]:g}, {ends[0]:g}]")
    return ends


def _within(low: float | int, high: float | int) -> AfterValidator:
    """Both ends of a range lie from `low` to `high`."""

    def check(ends: tuple[float | int, float | int]) -> tuple[float | int, float | int]:
        if not low <= ends[0] <= ends[1] <= high:
            raise ValueError(f"must lie from {low:g} to {high:g}")
        return ends

    return AfterValidator(check)


Numbers = Annotated[tuple[float, float], BeforeValidator(_both_ends), AfterValidator(_ordered)]
Counts = Annotated[tuple[int, int], BeforeValidator(_both_ends), AfterValidator(_ordered)]
Share = Annotated[float, Ge(0.0), Le(1.0)]  # of the scans
Weight = Annotated[float, Ge(0.0)]
Direction = Literal["axial", "coronal", "sagittal"]
Kind = Literal["head", "phantom", "shapes", "texture"]


class Objects(Params):
    """How often each kind of object lies in the scanner, in proportion. Heads alone with `simulate.heads`."""

    head: Weight
    phantom: Weight  # edges, bars, grids, discs
    shapes: Weight  # leaves that cover one another
    texture: Weight  # thresholded noise, cells

    @model_validator(mode="after")
    def _some(self) -> "Objects":
        if not any(self.model_dump().values()):
            raise ValueError("one weight must be above 0")
        return self


class Looks(Params):
    """How an object looks."""

    directions: Annotated[list[Direction], MinLen(1)]  # of the slices through a head; one is drawn
    turn: Annotated[Numbers, _within(0, 180)]  # in the plane, degrees to either side
    random_contrast: Share  # heads whose tissues have signals at random (SynthSeg), not those of a sequence
    grain: Annotated[Numbers, _within(0, 5)]  # strength of a texture that no tissue map has, 1 in the simple world
    bias: Annotated[Numbers, _within(0, 0.5)]  # deviation of the transmit field
    lesions: Annotated[Counts, _within(0, 100)]  # blobs of another signal in each slice
    implants: Share  # with metal that loses signal around it
    phase: Annotated[Numbers, _within(0, 10)]  # 0: none, 1: as in the simple world, more: rougher


class FrameParams(Params):
    """Matrices and fields of view; `simulate.size` and `simulate.fov` are the image's height."""

    narrow: Annotated[Numbers, _within(0.2, 2)]  # field of view along x, as a share of that along y
    pixel: Annotated[Numbers, _within(0.2, 5)]  # width over height of a pixel
    readout_oversampling: Annotated[list[Annotated[float, Ge(1), Le(4)]], MinLen(1)]  # along y; one is drawn
    phase_oversampling: Annotated[list[Annotated[float, Ge(1), Le(4)]], MinLen(1)]  # along x


class Receivers(Params):
    """Coils and their noise; `simulate.coils` is their number."""

    rows: Annotated[Counts, _within(1, 8)]
    radius: Annotated[Numbers, _within(0.5, 4)]  # of the ring, 1 in the simple world
    loops: Annotated[Numbers, _within(0.2, 4)]  # size of a loop, 1 in the simple world
    arc: Annotated[Numbers, _within(30, 360)]  # that the array covers, degrees
    gain: Annotated[Numbers, _within(0, 2)]  # deviation of the logarithm of a coil's gain
    correlation: Annotated[Numbers, _within(0, 0.9)]  # of the noise of neighbours


class ProcessingParams(Params):
    """What scanners and their users do to k-space, each to a share of the scans."""

    zero_padded_columns: Share
    zero_padded_rows: Share
    partial_columns: Share  # partial Fourier: one end of k-space is not measured
    partial_rows: Share  # an asymmetric echo
    measured: Annotated[Numbers, _within(0.6, 1)]  # share of the lines, where some were not
    ellipse: Share  # corners not measured
    filtered: Share  # a Hann, Fermi or Tukey window
    tapered_images: Share  # coil images that fall off at the edge of the frame
    masked_images: Share  # coil images whose air was emptied


class WorldParams(Params):
    """What varies beside the ranges of `simulate`."""

    objects: Objects
    looks: Looks
    frame: FrameParams
    receivers: Receivers
    processing: ProcessingParams


class SimulateParams(Params):
    """Section `simulate`: what to scan, how, and how many subjects each split has."""

    subjects: Annotated[int, Ge(0), Le(100_000)]  # 0 makes nothing
    heads: str | None  # a folder of NIfTI heads, <subject>_<contrast>.nii.gz; none: the template
    val: Annotated[int, Ge(0)]  # subjects
    test: Annotated[int, Ge(0)]
    rotation: Annotated[int, Ge(0)]  # moves the splits on by `test` subjects: subjects / test rotations test each once
    slices: Annotated[int, Ge(1), Le(512)]
    coils: Annotated[Counts, _within(1, 128)]
    size: Annotated[Counts, _within(16, 1024)]  # sides of the matrix
    fov: Annotated[Numbers, _within(50, 1000)]  # side of the frame, mm
    noise: Annotated[Numbers, _within(0, 1)]
    """Deviation of real and of imaginary part, as a share of the target's peak. Of a range most scans have little:
    the square root of the place in it is even."""
    seed: Annotated[int, Ge(0)]
    world: WorldParams | None  # none: heads in square frames, as measured

    @model_validator(mode="after")
    def _some_to_train(self) -> "SimulateParams":
        if self.subjects and self.val + self.test >= self.subjects:
            raise ValueError(f"val + test = {self.val + self.test} of {self.subjects} subjects leave none to train on")
        return self
