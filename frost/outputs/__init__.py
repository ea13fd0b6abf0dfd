"""Reconstructions as files that viewers and other programs read: one file a format, one contract, this registry.

In: images of a volume and their pose. Out: files, whole or not at all, without the patient's identity.
May import: `frost.scans` and below.
"""

from frost.outputs.contract import Format
from frost.outputs.dicom import DICOM
from frost.outputs.h5 import H5
from frost.outputs.mrd import MRD
from frost.outputs.nifti import NIFTI
from frost.outputs.png import PNG

#: by the name that `frost reconstruct --format` takes
FORMATS: dict[str, Format] = {"h5": H5, "nifti": NIFTI, "dicom": DICOM, "mrd": MRD, "png": PNG}
