"""The live path: what it makes of a new scan is what the caches hold of it, for every layout, to the last file."""

import io
import json
import re
import shutil
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
import zarr
from rich.console import Console

from frost.cache.classical import PrepareParams, write_images
from frost.cache.shards import write_root
from frost.errors import InputError
from frost.evaluation.bound import bound_rows, calibrated, rows_of
from frost.evaluation.cases import EvaluateParams
from frost.evaluation.disagreement import disagreement_map
from frost.evaluation.scores import fastmri_scores
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.networks.common.checkpoint import load_network
from frost.networks.image import IMAGE_NETWORKS
from frost.outputs import FORMATS
from frost.outputs.contract import pseudonym
from frost.reconstruction.display import scores_table, volume_lines
from frost.reconstruction.live import Done, load_models, new_masks, reconstruct_folder, reconstruct_volume
from frost.scans.challenge_files import challenge_path
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from tests.indexes import index_of
from tests.scans import examples, mrd

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(workspace):
    return load_models(workspace.root / "models", CPU)


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(file):
    with h5py.File(file) as opened:
        return opened["reconstruction"][:]


def test_live_images_are_the_cached_ones(workspace, models):
    pairs = workspace.pairs("test")
    root, volumes = volumes_of(workspace.root / "data" / "source", workspace.masks)
    assert [volume.name for volume in volumes] == pairs.names
    for volume in volumes:
        with VolumeReader(root, volume) as reader:
            live = reconstruct_volume(models, reader, "none")
        cached = pairs.volume(volume.name)
        for image in ("zero_filled", "grappa", "target"):
            np.testing.assert_array_equal(live[image], cached[image])
        # The convolution library may choose another kernel for the same weights at another address.
        np.testing.assert_allclose(live["varnet"], cached["varnet"], rtol=0, atol=1e-5 * cached["target"].max())
        rcan = load_network(workspace.root / "models" / "rcan", IMAGE_NETWORKS)
        places = [i for i, name in enumerate(n for n in pairs.names for _ in range(2)) if name == volume.name]
        batch = torch.stack([pairs[i]["inputs"] for i in places])
        np.testing.assert_allclose(live["rcan"], rcan(batch).numpy(), rtol=0, atol=1e-5 * cached["target"].max())
        assert np.abs(live["rcan"] - live["varnet"]).max() > 0.01 * live["varnet"].max(), "a network that does nothing"


def test_a_folder_is_masked_as_in_training_and_scored(workspace, models, tmp_path):
    source = workspace.root / "data" / "source" / "test"
    done = reconstruct_folder(models, source, tmp_path, None, None, "none")
    assert written(tmp_path) == ["file1004.h5", "file1005.h5"] and not done.failed
    target = workspace.pairs("test").volume("file1004")["target"]
    row = next(row for row in done.rows if row["volume"] == "file1004")
    assert row["ssim"]["rcan"] == fastmri_scores(target, read(tmp_path / "file1004.h5"))["ssim"]
    assert row["ssim"]["varnet"] != row["ssim"]["rcan"] and row["ms"] is None


def test_what_is_there_is_kept_and_the_rest_is_done(workspace, models, tmp_path):
    source, first = workspace.root / "data" / "source" / "test", tmp_path / "file1004.h5"
    reconstruct_folder(models, source / first.name, tmp_path, None, None, "none")
    before = first.stat().st_mtime_ns
    done = reconstruct_folder(models, source, tmp_path, None, None, "none")
    assert done.kept == 1 and [row["volume"] for row in done.rows] == ["file1005"]
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize("changes", [{"ensemble": "flip"}, {"consistent": True}, {"acceleration": 3.0}, {"models": ()}])
def test_a_folder_never_holds_the_images_of_two_networks_or_options(workspace, models, tmp_path, changes):
    source = workspace.root / "data" / "source" / "test"
    reconstruct_folder(models, source / "file1004.h5", tmp_path, None, None, "none")
    other = replace(models, digests=("another", "pair")) if "models" in changes else models
    options = {"acceleration": None, "center_fraction": None, "ensemble": "none"} | changes
    with pytest.raises(InputError, match=r"file1004\.h5: is there already, .* by other networks or options"):
        reconstruct_folder(other, source, tmp_path, **{key: v for key, v in options.items() if key != "models"})
    assert written(tmp_path) == ["file1004.h5"]


def test_another_scan_of_the_same_name_is_not_taken_for_done(models, tmp_path, write_fastmri):
    for number, site in enumerate(("a", "b")):
        write_fastmri(tmp_path / site / "scan1.h5", seed=number)
    reconstruct_folder(models, tmp_path / "a", tmp_path / "out", None, None, "none")
    assert reconstruct_folder(models, tmp_path / "a", tmp_path / "out", None, None, "none").kept == 1
    with pytest.raises(InputError, match=r"scan1\.h5: is there already, of another scan"):
        reconstruct_folder(models, tmp_path / "b", tmp_path / "out", None, None, "none")


def test_all_formats_hold_the_same_images_and_what_is_missing_is_added(models, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scan1.h5", patient="DOE4711", shape=(3, 4, 48, 44))
    folder = tmp_path / "out"
    reconstruct_folder(models, tmp_path / "scan1.h5", folder, None, None, "none")
    before = (folder / "scan1.h5").stat().st_mtime_ns
    done = reconstruct_folder(models, tmp_path / "scan1.h5", folder, None, None, "none", formats=tuple(FORMATS))
    dicom = [f"scan1.dicom/{i:04d}.dcm" for i in (1, 2, 3)]
    assert written(folder) == [*dicom, "scan1.h5", "scan1.mrd", "scan1.nii.gz", "scan1.png"]
    assert not done.kept and (folder / "scan1.h5").stat().st_mtime_ns == before
    images = read(folder / "scan1.h5")
    nifti = nibabel.load(folder / "scan1.nii.gz")
    voxels = nifti.get_fdata()[:, ::-1].transpose(2, 1, 0) / 1e6
    np.testing.assert_allclose(voxels, images, rtol=0, atol=0.51 * np.ptp(images) / 65535)
    first = pydicom.dcmread(folder / dicom[0])
    assert first.PatientID == pseudonym("DOE4711") and "pose nominal" in first.ImageComments
    assert not any(b"DOE4711" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    again = reconstruct_folder(models, tmp_path / "scan1.h5", folder, None, None, "none", formats=["png", "mrd"])
    assert again.kept == 1 and not again.rows


def test_all_images_are_in_every_format_under_their_names(models, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scan1.h5", shape=(2, 4, 48, 44))
    folder, file, others = (
        tmp_path / "out",
        tmp_path / "scan1.h5",
        ("varnet", "grappa", "sense", "zero_filled", "disagreement"),
    )
    done = reconstruct_folder(models, file, folder, None, None, "none", formats=tuple(FORMATS), all_images=True)
    assert not done.failed
    dicom = [f"scan1{part}.dicom/{i:04d}.dcm" for part in ("", *(f".{name}" for name in others)) for i in (1, 2)]
    apart = [f"scan1.{name}{ending}" for name in others for ending in (".nii.gz", ".mrd")]
    assert written(folder) == sorted([*dicom, *apart, "scan1.h5", "scan1.mrd", "scan1.nii.gz", "scan1.png"])
    with h5py.File(folder / "scan1.h5") as h5:
        images = {name: h5[name][:] for name in h5}
    assert set(images) == {"reconstruction", *others}
    root, [volume] = volumes_of(file, new_masks(models, None, None))
    with VolumeReader(root, volume) as reader:
        live = reconstruct_volume(models, reader, "none")
    for name in others[:4]:
        np.testing.assert_array_equal(images[name], live[name])
        voxels = nibabel.load(folder / f"scan1.{name}.nii.gz").get_fdata()[:, ::-1].transpose(2, 1, 0) / 1e6
        np.testing.assert_allclose(voxels, images[name], rtol=0, atol=0.51 * images[name].max() / 65535)
    np.testing.assert_array_equal(images["disagreement"], disagreement_map(live["varnet"], live["grappa"]))
    series = [pydicom.dcmread(folder / one) for one in dicom[::2]]
    assert len({one.SeriesInstanceUID for one in series}) == len({one.SeriesNumber for one in series}) == 6
    assert len({one.StudyInstanceUID for one in series}) == 1
    assert (
        "GRAPPA" in series[2].SeriesDescription
        and "Not the reconstruction but GRAPPA" in series[2].DerivationDescription
    )
    again = reconstruct_folder(models, file, folder, None, None, "none", formats=tuple(FORMATS), all_images=True)
    assert again.kept == 1 and not again.rows
    (folder / "scan1.grappa.mrd").unlink()
    assert reconstruct_folder(models, file, folder, None, None, "none", formats=["mrd"], all_images=True).rows
    with pytest.raises(InputError, match="by other networks or options"):
        reconstruct_folder(models, file, folder, None, None, "none")


def test_an_image_of_one_scan_never_takes_the_place_of_another_scan(models, tmp_path, write_fastmri):
    for number, name in enumerate(("scan1", "scan1.grappa")):
        write_fastmri(tmp_path / "scans" / f"{name}.h5", seed=number)
    with pytest.raises(InputError, match="another file of this name"):
        reconstruct_folder(models, tmp_path / "scans", tmp_path / "out", None, None, "none", all_images=True)
    assert len(reconstruct_folder(models, tmp_path / "scans", tmp_path / "out", None, None, "none").rows) == 2


# ---- the lower bound of SSIM


@pytest.fixture(scope="module")
def bounded(workspace, models):
    """The networks with a bound that was calibrated on their two validation patients."""
    params = EvaluateParams(ensemble="flip", batch_size=4, coverage=0.5, foreground=2e-5, presets=())
    training, validation = (
        rows_of(split, workspace.pairs(split), models.rcan, params, CPU) for split in ("train", "val")
    )
    bound = calibrated(training, validation, params, models.digests[1])
    wide = {"noise": [0.0, 1.0], "difference": [0.0, 1.0]}  # four training scans say little about both
    return replace(models, bound=bound, no_bound="", trained_on=models.trained_on | wide)


def test_the_live_bound_is_that_of_the_cached_images(workspace, bounded, tmp_path):
    params = EvaluateParams(ensemble="flip", batch_size=4, coverage=0.5, foreground=2e-5, presets=())
    cached = bound_rows(bounded.bound, rows_of("test", workspace.pairs("test"), bounded.rcan, params, CPU))
    source = workspace.root / "data" / "source" / "test"
    done = reconstruct_folder(bounded, source, tmp_path, None, None, "none", all_images=True)
    live = [value for row in done.rows for value in row["bound"]]
    assert len(live) == 4
    np.testing.assert_allclose(live, [row["bound"] for row in cached], atol=1e-4)
    with h5py.File(tmp_path / "file1004.h5") as h5:
        np.testing.assert_allclose(h5["ssim_bound"][:], live[:2], rtol=1e-6)
    printed = "\n".join(volume_lines(done, bounded.bound))
    assert "file1004: familiar; SSIM by slice at least 0." in printed
    assert "50% of new patients" in printed and "the 2 patients of validation" in printed


def test_a_file_never_keeps_the_bound_of_another_calibration(workspace, bounded, tmp_path):
    source = workspace.root / "data" / "source" / "test" / "file1004.h5"
    anew = replace(bounded, bound=bounded.bound.model_copy(update={"margin": bounded.bound.margin + 1}))
    reconstruct_folder(bounded, source, tmp_path, None, None, "none", all_images=True)
    assert reconstruct_folder(bounded, source, tmp_path, None, None, "none", all_images=True).kept == 1
    with pytest.raises(InputError, match=r"file1004\.h5: is there already, .* by other networks or options"):
        reconstruct_folder(anew, source, tmp_path, None, None, "none", all_images=True)
    for models in (bounded, anew):  # of RCAN's image alone no bound is in the file
        assert not reconstruct_folder(models, source, tmp_path / "rcan", None, None, "none").failed


@pytest.mark.parametrize(
    ("change", "why"),
    [({"ensemble": "flip"}, "no lower bound of SSIM: it holds without --ensemble"),
     ({"consistent": True}, "no lower bound of SSIM: it holds without --ensemble"),
     ({"acceleration": 8.0}, "; no lower bound of SSIM"),
     ({"center_fraction": 0.12}, "familiar; no lower bound of SSIM for acceleration")],
)  # fmt: skip
def test_nothing_is_promised_for_what_was_not_calibrated(workspace, bounded, tmp_path, change, why):
    options = {"acceleration": None, "center_fraction": None, "ensemble": "none"} | change
    done = reconstruct_folder(bounded, workspace.root / "data" / "source" / "test", tmp_path, **options)
    assert len(done.rows) == 2 and not any(row["bound"] for row in done.rows)
    printed = "\n".join(volume_lines(done, bounded.bound))
    assert why in printed and "at least" not in printed


def test_without_a_record_of_training_nothing_is_promised(workspace, bounded, tmp_path):
    source = workspace.root / "data" / "source" / "test" / "file1004.h5"
    done = reconstruct_folder(replace(bounded, trained_on={}), source, tmp_path, None, None, "none")
    assert not done.rows[0]["bound"] and next(volume_lines(done, bounded.bound)).endswith("; no lower bound of SSIM")


def test_the_table_fits_80_columns_and_has_no_empty_row(bounded, workspace, tmp_path, write_fastmri, make_mask):
    reconstruct = [bounded, workspace.root / "data" / "source" / "test", tmp_path / "a", None, None, "none", True]
    scored = reconstruct_folder(*reconstruct)
    write_fastmri(tmp_path / "file_brain_AXFLAIR_200_6002462.h5", mask=make_mask(44), target=False)
    reconstruct[1] = tmp_path / "file_brain_AXFLAIR_200_6002462.h5"
    unscored = reconstruct_folder(*reconstruct)
    for done in (scored, unscored, Done([*scored.rows, *unscored.rows])):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(scores_table(done))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
        assert sum(bool(re.search(r" 4 (familiar|unusual)\b", line)) for line in lines) == len(done.rows)


def test_a_folder_never_holds_formats_of_two_networks(models, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scan1.h5")
    reconstruct_folder(models, tmp_path / "scan1.h5", tmp_path / "out", None, None, "none", formats=["dicom"])
    other = replace(models, digests=("another", "pair"))
    with pytest.raises(InputError, match=r"scan1\.dicom: is there already, .* by other networks or options"):
        reconstruct_folder(other, tmp_path / "scan1.h5", tmp_path / "out", None, None, "none", formats=["png"])
    assert written(tmp_path / "out") == ["scan1.dicom/0001.dcm", "scan1.dicom/0002.dcm"]


def test_images_that_are_not_numbers_are_no_success(models, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scans" / "a.h5")

    class Broken(torch.nn.Module):
        def forward(self, inputs):
            return inputs[:, 0] * torch.nan

    done = reconstruct_folder(replace(models, rcan=Broken()), tmp_path / "scans", tmp_path / "out", None, None, "none")
    assert not done.rows and done.failed == ["a.h5: its image `rcan` holds nan or infinite values, which have no score"]
    assert not (tmp_path / "out").exists()


def test_a_file_of_others_is_not_taken_for_a_reconstruction(workspace, models, tmp_path):
    (tmp_path / "file1004.h5").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"file1004\.h5: damaged, truncated or not HDF5"):
        reconstruct_folder(models, workspace.root / "data" / "source" / "test", tmp_path, None, None, "none")
    assert (tmp_path / "file1004.h5").read_bytes() == b"mine"


def test_bad_files_are_told_and_the_others_done(models, tmp_path, write_fastmri):
    scans = tmp_path / "scans"
    for number, name in enumerate(("a", "b", "c", "d")):
        write_fastmri(scans / f"{name}.h5", seed=number)
    (scans / "b.h5").write_bytes((scans / "b.h5").read_bytes()[:3000])  # its header cannot be read
    with h5py.File(scans / "d.h5", "a") as h5:  # its header can, its second slice cannot
        h5["kspace"][1, 0, 0, 0] = np.nan
    done = reconstruct_folder(models, scans, tmp_path / "out", None, None, "none")
    assert written(tmp_path / "out") == ["a.h5", "c.h5"]
    assert len(done.failed) == 2 and "b.h5" in done.failed[0] and "slice 1 has NaN" in done.failed[1]


def test_a_dead_coil_is_told_once_its_volume_is_done(models, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scans" / "a.h5")
    with h5py.File(tmp_path / "scans" / "a.h5", "a") as h5:
        h5["kspace"][:, 3] = 0
    done = reconstruct_folder(models, tmp_path / "scans", tmp_path / "out", None, None, "none")
    assert done.notices == [f"{tmp_path / 'scans' / 'a.h5'}: `kspace`: no signal in coil 3 of 0 to 3"]


def test_a_file_with_its_own_mask_needs_no_target(models, tmp_path, write_fastmri, make_mask):
    write_fastmri(tmp_path / "file7.h5", mask=make_mask(44), acquisition="CORPD_FBK")
    done = reconstruct_folder(models, tmp_path / "file7.h5", tmp_path / "out", None, None, "none", timed=True)
    assert written(tmp_path / "out") == ["file7_v2.h5"] and read(tmp_path / "out" / "file7_v2.h5").shape == (2, 32, 32)
    assert done.milliseconds() == done.rows[0]["ms"] > 0 and not done.rows[0]["ssim"]


def test_an_snu_tree_gives_the_tree_that_is_handed_in(models, tmp_path, snu_source):
    year, source = snu_source
    done = reconstruct_folder(models, source, tmp_path, None, None, "none")
    groups = {2022: [""], 2024: ["private/", "public/"]}.get(year, ["acc4/", "acc8/"])
    assert written(tmp_path) == sorted(
        f"reconstructions_leaderboard/{group}{name}.h5"
        for group in groups
        for name in (
            ["brain_test1", "knee_test1"]
            if year == 2025
            else [f"{'knee' if year == 2026 else 'brain'}_test{n}" for n in (1, 2)]
        )
    )
    assert not done.failed and read(next(tmp_path.rglob("*.h5"))).shape == (2, 48, 48)


def test_a_leaderboard_is_named_as_in_its_tree_whole_or_folder_by_folder(models, tmp_path, write_snu_tree):
    board = write_snu_tree(tmp_path / "snu", 2026) / "leaderboard"
    done = reconstruct_folder(models, board, tmp_path / "whole", None, None, "none")
    (board.parent / "train" / "kspace" / "knee_acc4_1.h5").unlink()  # what is not asked for is not looked at
    for folder in ("acc4", "acc8"):
        part = reconstruct_folder(models, board / folder, tmp_path / "parts", None, None, "none")
        assert len(part.rows) == 2 and not part.kept
    names = [f"reconstructions_leaderboard/acc{r}/knee_test{n}.h5" for r in (4, 8) for n in (1, 2)]
    assert written(tmp_path / "whole") == written(tmp_path / "parts") == names and not done.failed


def test_a_knee_of_the_challenge_keeps_its_name(models, tmp_path, write_fastmri, make_mask):
    for folder in ("multicoil_test", "multicoil_challenge"):
        file = tmp_path / folder / "file7.h5"
        write_fastmri(file, mask=make_mask(44), acquisition="CORPD_FBK", target=False)
        reconstruct_folder(models, file.parent, tmp_path / "out" / folder, None, None, "none")
    assert written(tmp_path / "out") == ["multicoil_challenge/file7.h5", "multicoil_test/file7_v2.h5"]


@pytest.mark.parametrize(
    ("file", "layout", "name", "has_target", "path"),
    [
        ("multicoil_val/file1.h5", "fastmri", "file1", True, "file1.h5"),
        ("multicoil_test_v2/file1_v2.h5", "fastmri", "v2-file1_v2", False, "file1_v2.h5"),
        ("multicoil_test/file1.h5", "fastmri", "file1.R8", False, "file1.R8_v2.h5"),
        ("multicoil_challenge/file1.h5", "fastmri", "challenge-file1", False, "file1.h5"),
        ("leaderboard/acc5/kspace/brain_test1.h5", "snu2024", "acc5-brain_test1", True,
         "reconstructions_leaderboard/public/brain_test1.h5"),
        ("leaderboard/acc9/kspace/brain_test1.h5", "snu2024", "acc9-brain_test1", True,
         "reconstructions_leaderboard/private/brain_test1.h5"),
        ("leaderboard/../../acc5/kspace/brain_test1.h5", "snu2023", "acc5-brain_test1", True,
         "reconstructions_leaderboard/__/__/acc5/brain_test1.h5"),
        ("val/kspace/knee_acc4_1.h5", "snu2026", "knee_acc4_1", True, "reconstructions_val/knee_acc4_1.h5"),
        ("kspace/knee_test1.h5", "snu2026", "knee_test1", True, "knee_test1.h5"),
    ],
)  # fmt: skip
def test_challenge_names(file, layout, name, has_target, path):
    facts = {"file": file, "layout": layout, "name": name, "acquisition": "CORPD_FBK"}
    assert str(challenge_path(facts, has_target)) == path


def test_masks_are_those_of_training_unless_others_are_asked_for(models):
    masks = new_masks(models, None, None)
    assert (masks.kind, masks.accelerations, masks.center_fractions) == (["equispaced"], [4], [0.16])
    assert new_masks(models, 8.0, 0.04).accelerations == [8]
    with pytest.raises(InputError, match=r"--acceleration, --center-fraction"):
        new_masks(models, 8.0, 1.5)
    several = [{"kind": "magic", "acceleration": r, "center_fraction": 0.32 / r} for r in (4.0, 8.0)]
    assert new_masks(replace(models, masks=several), 8.0, None).center_fractions == [0.04]
    in_files = {"kind": "file", "acceleration": None, "center_fraction": None}
    at_many = [
        several[0] | {"acceleration": r, "center_fraction": c} for r, c in ((2.0, 0.12), (4.0, 0.08), (6.0, 0.07))
    ]
    many = new_masks(replace(models, masks=at_many), None, None)
    assert (many.accelerations, many.center_fractions) == ([4.0], [0.08])
    assert new_masks(replace(models, masks=at_many), 7.0, None).center_fractions == [0.07]
    mixed = new_masks(replace(models, masks=[several[1], in_files]), None, None)
    assert (mixed.kind, mixed.accelerations, mixed.center_fractions) == (["magic"], [8], [0.04])
    assert new_masks(replace(models, masks=[in_files | {"acceleration": 3.7}]), None, None).accelerations == [4]


def test_networks_that_were_not_made_for_each_other_are_refused(workspace, tmp_path):
    import json
    import shutil

    shutil.copytree(workspace.root / "models", tmp_path / "models")
    config = tmp_path / "models" / "rcan" / "config.json"
    facts = json.loads(config.read_text())
    facts["made_by"]["networks"] = ["00"]
    config.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="of another network than"):
        load_models(tmp_path / "models", CPU)


def test_networks_that_were_made_before_there_was_a_sense_image_still_load(workspace, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(workspace.root / "models", models)
    config = models / "rcan" / "config.json"
    facts = json.loads(config.read_text())
    del facts["made_by"]["prepare"]["sense"]
    config.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"config\.json: has the input `sense`, but no record of how it was made"):
        load_models(models, torch.device("cpu"))
    facts["inputs"] = ["varnet", "grappa", "varnet-1", "zero_filled"]
    config.write_text(json.dumps(facts))
    assert load_models(models, torch.device("cpu")).prepare.sense is None


# ---- other formats


def test_ismrmrd_files_go_from_the_index_through_prepare_to_the_live_path(models, workspace, tmp_path, make_kspace):
    """The last scan was undersampled on the scanner: its own mask, no target, no score."""
    source, rows, columns = tmp_path / "source", 48, 44
    for number, split in enumerate(("train", "train", "val", "test")):
        kspace = make_kspace(2, 4, 2 * rows, columns, number, 0.004).numpy()
        acquired = [x for x in range(columns) if split != "test" or x % 4 == 2 or 18 <= x < 26]
        lines = [mrd.line(kspace[i, ..., x], x, slice=i) for i in range(2) for x in acquired]
        mrd.write(source / split / f"scan{number}.h5", mrd.header((2 * rows, columns), (rows, columns)), lines)
    index = index_of(source, masks={"center_fractions": [0.2]}, test={"when": "never"})
    grappa = {"source": "computed", "kernel_lines": 2, "kernel_points": 3, "regularisation": 1e-2}
    params = PrepareParams.model_validate({"grappa": grappa | {"calibration": "slice"}, "sense": None})
    write_root(tmp_path / "images.zarr")
    for volume in (index["val"][0], index["test"][0]):
        write_images(tmp_path / "images.zarr" / volume.key, source, volume, params)
        with VolumeReader(source, volume) as reader:
            cached = zarr.open_array(tmp_path / "images.zarr" / volume.key, mode="r")[:]
            assert cached.shape == (2, 3 if volume.target == "computed" else 2, rows, columns)
            np.testing.assert_allclose(cached[1, 0], rss(ifft2c(reader.kspace(1) * reader.mask())).numpy(), rtol=1e-5)
    done = reconstruct_folder(models, source, tmp_path / "out", None, None, "none")
    assert written(tmp_path / "out") == ["scan3.h5"] and not done.failed and not done.rows[0]["ssim"]
    assert read(tmp_path / "out" / "scan3.h5").shape == (2, rows, columns)
    done = reconstruct_folder(models, source / "val" / "scan2.h5", tmp_path / "out", None, None, "none")
    assert done.rows[0]["ssim"]["rcan"] > 0 and written(tmp_path / "out") == ["scan2.h5", "scan3.h5"]


def test_every_format_is_reconstructed(models, tmp_path, make_kspace):
    kspace = make_kspace(2, 4, 48, 44, noise=0.004).numpy()
    for layout, (file, image_file) in examples.write_examples(tmp_path / "source", kspace).items():
        if image_file is None:
            done = reconstruct_folder(models, file, tmp_path / layout, None, None, "none")
            assert written(tmp_path / layout) == [f"{file.stem}.h5"] and not done.failed
            assert 0 < done.rows[0]["ssim"]["zero_filled"] < 1
