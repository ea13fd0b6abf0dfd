"""DICOM: a folder with one MR Image Storage file a slice.

The classic object rather than Enhanced MR, which must hold dates and times of acquisition; these files hold none.
"""

import hashlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt16

from frost.outputs.contract import Format, Reconstruction
from frost.outputs.scaling import Scaled, scaled_to_16_bits, window_top

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def write(path: Path, volume: Reconstruction) -> None:
    """Files 0001.dcm, 0002.dcm, ... with 16 bits, slope and intercept."""
    from pydicom import dcmwrite  # here, because it takes a second, which other formats do not need

    scaled = scaled_to_16_bits(volume.images)
    common = _common(volume, scaled)
    path.mkdir()
    for i, stored in enumerate(scaled.stored):
        dcmwrite(path / f"{i + 1:04d}.dcm", _slice(common, volume, i, stored), enforce_file_format=True)


def uid(*facts: str) -> str:
    """A unique identifier that the same facts give again, from a UUID as PS3.5 B.2 has it."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(facts)).int}"


def _common(volume: Reconstruction, scaled: Scaled) -> "Dataset":
    """All that the slices of a volume share, PS3.3 A.4. Empty is what the standard requires and no file has."""
    from pydicom.dataset import Dataset
    from pydicom.uid import MRImageStorage

    common, geometry = Dataset(), volume.geometry
    remark = volume.of_slice(0).remark()  # every slice has its own pose: that of the stack does not count
    common.SOPClassUID = MRImageStorage
    common.PatientName = common.PatientBirthDate = common.PatientSex = ""
    common.PatientID = volume.pseudonym
    common.PatientIdentityRemoved = "YES"
    common.DeidentificationMethod = "Written without identity: no name, no date, the id hashed"
    common.StudyInstanceUID = uid("study", volume.identity)
    common.StudyDate = common.StudyTime = common.StudyID = common.AccessionNumber = common.ReferringPhysicianName = ""
    common.Modality = "MR"
    common.SeriesInstanceUID = uid("series", volume.made_by)
    common.SeriesNumber = volume.number()
    common.SeriesDescription = remark
    common.Laterality = common.PatientPosition = ""
    common.FrameOfReferenceUID = uid("frame", volume.identity)
    common.PositionReferenceIndicator = ""
    common.Manufacturer = "Frost"
    common.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    common.DerivationDescription = volume.derivation()
    common.ImageComments = f"{remark}; {scaled.remark()}"
    common.BurnedInAnnotation = "NO"
    common.ScanningSequence, common.SequenceVariant, common.ScanOptions = "RM", "NONE", ""  # RM: research mode
    common.MRAcquisitionType = "2D"
    common.EchoTime = common.RepetitionTime = common.EchoTrainLength = None
    common.InPlanePhaseEncodingDirection = "ROW"
    common.PixelSpacing = [_decimal(size) for size in geometry.voxel_size[1:]]
    common.SpacingBetweenSlices = _decimal(geometry.voxel_size[0])
    common.SliceThickness = _decimal(geometry.thickness)
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.Rows, common.Columns = volume.images.shape[1:]
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 16, 15, 0
    common.RescaleSlope, common.RescaleIntercept = f"{scaled.slope:.8e}", f"{scaled.intercept:.8e}"
    common.RescaleType = "US"
    width = max(window_top(volume.images) * scaled.factor, 1.0)  # 1 is the least that the standard permits
    common.WindowCenter, common.WindowWidth = f"{width / 2:.2f}", f"{width:.2f}"
    return common


def _slice(common: "Dataset", volume: Reconstruction, i: int, stored: UInt16[np.ndarray, "y x"]) -> "Dataset":
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    one, geometry = Dataset(common), volume.geometry.of_slice(i)
    one.InstanceNumber = i + 1
    one.ImagePositionPatient = [_decimal(part) for part in geometry.first]
    one.ImageOrientationPatient = [_decimal(part) for axis in (2, 1) for part in geometry.axes[axis]]
    one.PixelData = stored.astype("<u2").tobytes()
    # Of the pixels too: on another machine they may differ in the last bit, and no two images may have one identifier.
    one.SOPInstanceUID = uid("slice", volume.made_by, str(i), hashlib.sha256(one.PixelData).hexdigest())
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return one


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def holds(path: Path, made_by: str) -> bool:
    """By the identifier of the series of its first slice."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        first = dcmread(path / "0001.dcm", stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return bool(first.get("SeriesInstanceUID") == uid("series", made_by))
    except (InvalidDicomError, OSError, ValueError, AttributeError, TypeError, EOFError):
        return False


DICOM = Format(".dicom", write, holds, together=False)
