"""The command `frost`: new scans, scores, comparisons and the store, beside the pipeline that `dvc` runs."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from frost.errors import InputError
from frost.pipeline.processes.ending import end_on_signals
from frost.pipeline.processes.ranks import forget_other_launchers


def _terminal() -> Console:
    """For tables and lines with names in them, which are no markup."""
    return Console(markup=False)


app = typer.Typer(
    help="Accelerated MRI reconstruction in two stages. The pipeline itself runs by `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _frost() -> None:
    """Typer needs a callback for a single command to keep its name."""


@app.command()
def reconstruct(
    input: Annotated[Path, typer.Option(help="a file of raw data, or a folder of them, or an SNU tree")],
    output: Annotated[Path, typer.Option(help="folder for one file a volume and format")],
    format: Annotated[list[str], typer.Option(help="h5, nifti, dicom, mrd or png; give it again for several")] = ["h5"],  # noqa: B006
    images: Annotated[
        Literal["rcan", "all"],
        typer.Option(help="all: VarNet, GRAPPA, SENSE, zero-filled and where VarNet and GRAPPA disagree, too"),
    ] = "rcan",
    models: Annotated[
        Path | None,
        typer.Option(help="folder with varnet/ and rcan/, as `dvc repro` makes it; default: what comes with Frost"),
    ] = None,
    acceleration: Annotated[
        float | None,
        typer.Option(help="mask fully sampled files at this R; default: what RCAN was trained for", min=1),
    ] = None,
    center_fraction: Annotated[
        float | None,
        typer.Option(help="share of centre lines in that mask; default: as trained for this R", min=0, max=1),
    ] = None,
    ensemble: Annotated[
        Literal["none", "flip", "seed", "dihedral"],
        typer.Option(help="average RCAN over changes of its input"),
    ] = "none",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is")] = None,
    consistent: Annotated[
        bool, typer.Option(help="put the measured lines back into RCAN's image; docs/trust.md says what that does")
    ] = False,
    time: Annotated[bool, typer.Option(help="report milliseconds per slice: batch 1, warm, reading included")] = False,
) -> None:
    """Reconstruct new scans: k-space to VarNet and GRAPPA, and their images to RCAN.

    OUTPUT gets the names that the challenges take: fastMRI's, or `reconstructions_leaderboard/acc4/...` for an SNU
    tree. Of a tree with test scans those alone are done. Fully sampled files are masked first and scored against their
    own target; files that hold a `mask` are taken as they are. Volumes that are in OUTPUT already are kept, so that an
    interrupted run goes on. A damaged file is reported at the end, after all others, with exit status 1.

    Formats: h5, the challenges' file with dataset `reconstruction`; nifti, one .nii.gz; dicom, a folder with a file a
    slice; mrd, ISMRMRD images; png, one sheet of all slices. Their voxel size is the header's, their pose is nominal
    where it has none, and the file says so. They hold no name, date or time, and the patient's id as a hash. The
    values of nifti and dicom, of 16 bits, are a power of 1000 times the scan's, which they tell: mostly 1e6.

    With `--images all` h5 has a dataset for each image and map, png a column; the other formats have a file or series
    for each, as scan1.grappa.nii.gz.

    The first line says which networks are used. A line a volume says how far the scan is from those that they were
    trained on: `familiar`, `unusual` and why, or `unknown`. For a familiar scan it gives a lower bound of the SSIM of
    each slice, of RCAN's image without --ensemble and --consistent; docs/trust.md says what it promises.

    Example: frost reconstruct --input /data/multicoil_test --output reconstructions
    """
    from frost.reconstruction.display import scores_table, volume_lines
    from frost.reconstruction.live import default_models, load_models, reconstruct_folder

    folder = models or default_models()
    networks = load_models(folder, _device(device))
    typer.echo(f"networks: {folder}" if models else f"networks: {folder.name}, which came with Frost")
    done = reconstruct_folder(
        networks, input, output, acceleration, center_fraction, ensemble, time, consistent, format, images == "all"
    )
    if done.rows:
        _terminal().print(scores_table(done))
    for line in volume_lines(done, networks.bound):
        typer.echo(line)
    for line in done.notices:
        typer.echo(f"note: {line}", err=True)
    if done.kept:
        _terminal().print(f"{done.kept} were in {output} already and are kept; remove them to have them anew")
    if time and done.rows:
        _terminal().print(f"{done.milliseconds():.1f} ms a slice, mean of all slices: batch 1, warm, reading included")
    if done.failed:
        _end_with(done.failed, "could not be reconstructed")


def _device(name: str | None) -> Any:
    """The device of that name, or the best there is."""
    import torch
    from accelerate import PartialState

    try:
        device = torch.device(name) if name else PartialState().device
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


@app.command()
def score(
    preset: Annotated[str, typer.Option(help="fastmri, snu2021, ... snu2026")],
    target: Annotated[Path, typer.Option(help="folder of files with the target images")],
    reconstruction: Annotated[Path, typer.Option(help="folder of files with `reconstruction`, the same names")],
    json_: Annotated[bool, typer.Option("--json", help="the whole answer as JSON")] = False,
) -> None:
    """Score two trees of files by an official definition, without a pipeline.

    Example: frost score --preset snu2023 --target Data/leaderboard --reconstruction out/reconstructions_leaderboard
    """
    import json

    from frost.evaluation.official.files import score_folders
    from frost.evaluation.official.presets import PRESETS

    volumes, summary = score_folders(preset, target, reconstruction)
    if json_:
        sys.stdout.write(json.dumps(finite(summary | {"volumes": volumes}), indent=1) + "\n")
        return
    table = Table(
        "group", "volumes", "slices", *_metrics(summary), title=f"{preset}, means over {PRESETS[preset].unit}s"
    )
    for group, scores in [*summary["by_group"].items(), ("final", summary["final"])]:
        counts = [str(scores.get(n, "")) for n in ("n_volumes", "n_slices")]
        cells = [f"{scores[m]:.6f}" if m in scores else "" for m in _metrics(summary)]
        table.add_row(group or "all", *counts, *cells)
    _terminal().print(table)
    _terminal().print(
        "data range: " + ", ".join(f"{source} ({n} volumes)" for source, n in summary["range_source"].items())
    )
    _terminal().print("target: " + ", ".join(f"{name} ({n} volumes)" for name, n in summary["target"].items()))
    for what, why in summary["left_out"].items():
        _terminal().print(f"{what} left out: {why}")


def _metrics(summary: dict[str, Any]) -> list[str]:
    names = [name for scores in summary["by_group"].values() for name in scores if not name.startswith("n_")]
    return list(dict.fromkeys(names))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="experiments, branches, tags, commits, `workspace`, or csv files")],
    metric: Annotated[str, typer.Option(help="column of the table by slice")] = "ssim",
    image: Annotated[str, typer.Option(help="which image is compared")] = "rcan",
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    md: Annotated[bool, typer.Option(help="as Markdown")] = False,
    json_: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Is one run really better than another? Paired by slice, with intervals over patients.

    Example: frost compare main workspace
    """
    import json

    from frost.evaluation.comparison.display import as_markdown, as_renderable
    from frost.evaluation.comparison.runs import read_run
    from frost.evaluation.comparison.statistics import compare_runs

    result = compare_runs([read_run(run) for run in runs], metric=metric, image=image, split=split)
    if md or json_:
        sys.stdout.write(as_markdown(result) if md else json.dumps(finite(result), indent=1) + "\n")
    else:
        _terminal().print(as_renderable(result))


store_app = typer.Typer(help="What the store holds, and how to clean it.", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command("ls")
def store_ls() -> None:
    """List the entries: stage, volume, key, size, time since the last use, and what uses it.

    Users are workspaces that have used this store, branches, tags, experiments, and commits that changed dvc.lock.
    """
    from frost.cache.store import Store
    from frost.pipeline.places import store_root
    from frost.upkeep.usage import listing, note_on, users

    store = Store(store_root())
    uses = users(store, Path.cwd())
    _terminal().print(listing(store, store.ls(), uses))
    if note := note_on(uses):
        typer.echo(f"note: {note}", err=True)


@store_app.command("du")
def store_du() -> None:
    """Where the store is, and how much each stage keeps there."""
    from frost.cache.store import Store
    from frost.pipeline.places import store_root

    store = Store(store_root())
    table = Table("stage", "MB")
    sizes = store.du()
    for stage, n_bytes in [*sizes.items(), ("all", sum(sizes.values()))]:
        table.add_row(stage, f"{n_bytes / 1e6:.1f}")
    typer.echo(f"{store.root}; entries share their blocks with outs and DVC's cache where the file system can link")
    _terminal().print(table)


@store_app.command("gc")
def store_gc(
    older_than: Annotated[str | None, typer.Option(help="days since the last use, as in 30d")] = None,
    unneeded: Annotated[bool, typer.Option(help="what no workspace, commit, branch or experiment uses")] = False,
    dry_run: Annotated[bool, typer.Option(help="list it and remove nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove without a question")] = False,
) -> None:
    """Remove entries, after a question, and none that is being worked on. With both options, what meets both.

    An entry that was used in the last day always counts as needed. What is removed is computed again when it is wanted.

    Example: frost store gc --unneeded --dry-run
    """
    from frost.cache.store import Store
    from frost.pipeline.places import store_root
    from frost.upkeep import usage

    if older_than is None and not unneeded:
        raise InputError("store gc: --older-than 30d or --unneeded says what may go")
    if older_than is not None and not (older_than.endswith("d") and older_than[:-1].isdecimal()):
        raise InputError(f"--older-than: a number of days such as 30d is needed, not {older_than!r}")
    store = Store(store_root())
    records = store.unused(86400 * int(older_than[:-1])) if older_than else store.ls()
    uses = usage.users(store, Path.cwd()) if unneeded else None
    if uses:
        records = usage.unneeded(store, records, uses)
        if note := usage.note_on(uses):
            typer.echo(f"note: {note}", err=True)
    what = f"{len(records)} entries, {sum(r.n_bytes for r in records) / 1e6:.1f} MB"
    if records and (dry_run or not yes):
        _terminal().print(usage.listing(store, records, uses))
    if dry_run or not records:
        typer.echo(f"would remove {what}" if dry_run else "nothing to remove")
        return
    if not yes:
        typer.confirm(f"remove {what}?", abort=True)
    removed = store.remove(records)
    typer.echo(f"removed {len(removed)} entries, {sum(r.n_bytes for r in removed) / 1e6:.1f} MB")


@store_app.command("adopt")
def store_adopt() -> None:
    """Take caches and networks of this workspace into the store: after `dvc pull` nothing is made that is there.

    Every byte is read. What was made by other code, params, scans or versions of libraries is not taken.
    """
    from frost.cache.store import Store
    from frost.pipeline.places import store_root
    from frost.upkeep.adoption import adopt

    for line in adopt(Store(store_root())):
        typer.echo(line)


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="make anew what is damaged, and nothing else")] = False,
    recompute: Annotated[int, typer.Option(help="random slices to run through the frozen network again", min=0)] = 0,
) -> None:
    """Read every byte of the store and of the two caches; exit status 1 where one is not what was written.

    Example: frost verify --recompute 20
    """
    from frost.cache import verify as check
    from frost.cache.store import Store
    from frost.pipeline.places import store_root

    store = Store(store_root())
    faults = check.find_faults(store)
    if faults and repair:
        sys.stdout.writelines(f"{fault.what}\n" for fault in faults)
        stages = check.repair(store, faults)
        sys.stdout.write(f"repaired by {', '.join(stages) or 'dropping what no stage needs'}\n")
        faults = check.find_faults(store)
    sys.stdout.writelines(f"{fault.what}\n" for fault in faults)
    if faults:
        raise InputError(f"{len(faults)} damaged: `frost verify --repair` makes them anew")
    wrong = check.recompute(recompute) if recompute else []
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    if wrong:
        raise InputError(f"{len(wrong)} of {recompute} slices are not what the frozen network says")
    again = f", and {recompute} slices are what the network says" if recompute else ""
    sys.stdout.write(f"every byte is what was written{again}\n")


@app.command()
def report(
    output: Annotated[Path, typer.Option(help="the HTML file to write")],
    names: Annotated[
        list[str] | None, typer.Argument(help="experiments, branches, tags, commits or `workspace`, side by side")
    ] = None,
    run: Annotated[
        Path, typer.Option(help="folder of a finished run, where no name is given: the project, or a copy")
    ] = Path(),
    title: Annotated[str, typer.Option(help="heading of the page")] = "Accelerated MRI in two stages",
    slices: Annotated[int, typer.Option(help="at most so many slices to look through", min=1, max=400)] = 40,
) -> None:
    """Write the evaluation as one HTML file: scores, a slice browser, how it was made. It loads nothing from anywhere.

    Example: frost report main no-grappa --output report.html
    """
    from tempfile import TemporaryDirectory

    from frost.evaluation.report.page import write_report
    from frost.evaluation.report.run import in_folder, of_revision

    with TemporaryDirectory() as folder:
        runs = [of_revision(run, name, Path(folder, str(k))) for k, name in enumerate(names or [])]
        write_report(runs or [in_folder(run)], output, title, slices)
    _terminal().print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


@app.command()
def export(
    challenge: Annotated[Literal["snu2026"], typer.Argument(help="snu2026")],
    output: Annotated[Path, typer.Option(help="folder for `test_part.py` and `checkpoints`")],
    models: Annotated[Path, typer.Option(help="folder with varnet/ and rcan/")] = Path("models"),
) -> None:
    """Write what the organisers time: `load_model`, `prep_volume` and `recon_slice` as one file, and the weights.

    Example: frost export snu2026 --output submission
    """
    from frost.challenges.rules import export_snu2026

    export_snu2026(models, output)
    _terminal().print(f"{output}/test_part.py goes to utils/learning, {output}/checkpoints is its `args.exp_dir`")


@app.command()
def check(
    challenge: Annotated[str, typer.Argument(help="snu2022, ... snu2026")],
    run: Annotated[Path, typer.Option(help="folder of the run: the project, or a copy of it")] = Path(),
) -> None:
    """List the rules of a challenge's year, and which of them this run's params and data break.

    Example: frost check snu2026
    """
    from frost.challenges.rules import check as held_against

    findings = held_against(challenge, run)
    table = Table("rule", "", "why", title=challenge)
    for finding in findings:
        table.add_row(finding.rule, finding.state, finding.why)
    _terminal().print(table)
    broken = [finding.rule for finding in findings if finding.state == "broken"]
    if broken:
        raise InputError(f"{len(broken)} of the rules of {challenge} broken: {'; '.join(broken)}")


@app.command()
def plan() -> None:
    """Check all of params.yaml, against the scans too, and show the work that `dvc repro` would do. It runs nothing.

    A line for each fault, and exit status 1 where there is one. The first stages of `dvc repro` do the same.
    """
    from frost.planning.run import show_plan

    show_plan()


@app.command()
def preset(
    file: Annotated[Path, typer.Argument(help="one of params/, or a file like it: sections with the keys to change")],
    params: Annotated[Path, typer.Option(help="the file to change")] = Path("params.yaml"),
) -> None:
    """Put the values of a preset into params.yaml: another network for stage 2, or the sizes for a GPU.

    Example: frost preset params/gpu_8gb.yaml
    """
    from frost.pipeline.presets import apply_preset

    for line in apply_preset(file, params) or ["nothing to change"]:
        _terminal().print(line, highlight=False)


@app.command()
def trust(
    input: Annotated[Path, typer.Option(help="an h5 file, a folder of them, or an SNU tree")],
    models: Annotated[Path, typer.Option(help="folder with varnet/ and rcan/")] = Path("models"),
    acceleration: Annotated[float | None, typer.Option(help="mask fully sampled files at this R", min=1)] = None,
    center_fraction: Annotated[float | None, typer.Option(help="share of centre lines in it", min=0, max=1)] = None,
    foreground: Annotated[float, typer.Option(help="target above which a pixel is in the head")] = 2e-5,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: the best there is")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the maps: NAME.trust.h5 and NAME.trust.png")] = None,
    json_: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """How far RCAN's image is from the measured k-space, and whether VarNet and GRAPPA disagree where it is wrong.

    The residual is ||M(F c) - y|| / ||y|| with VarNet's coil images scaled to RCAN's magnitude, so it depends on
    VarNet's phase. `put back`: SSIM after the projection that puts the measured lines back.

    With `--output` the maps are written beside RCAN's image: where the residual lies, where VarNet and GRAPPA disagree,
    and with a target where the image is wrong. The disagreement and the error are means over 7 x 7 pixels.

    Example: frost trust --input data/simulated/test
    """
    import json

    from frost.reconstruction.live import load_models, new_masks
    from frost.reconstruction.trust import means, trust_folder, trust_table

    networks = load_models(models, _device(device))
    rows, failed = trust_folder(networks, input, new_masks(networks, acceleration, center_fraction), foreground, output)
    if json_:
        sys.stdout.write(json.dumps(finite({"volumes": rows, "mean": means(rows)}), indent=1) + "\n")
    elif rows:
        _terminal().print(trust_table(rows, networks.name))
    if failed:
        _end_with(failed, "could not be read")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="a file of raw data, or a folder of them")],
    json_: Annotated[bool, typer.Option("--json", help="as JSON, a list with one object a volume")] = False,
) -> None:
    """Describe raw data: format, sizes, sampling, noise, target, what is odd, and what Frost would do with it.

    Every slice is read, nothing is written. Volumes that Frost refuses are described as far as they can be read, and
    the exit status is then 1.

    Example: frost inspect /data/scan.h5
    """
    import json
    from dataclasses import asdict

    from frost.scans.inspection import described
    from frost.scans.inspection import inspect as inspect_path

    results = inspect_path(path)
    if json_:
        sys.stdout.write(json.dumps(finite([asdict(result) for result in results]), indent=1) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for result in results for line in described(result))
    if refused := sum(result.refused is not None for result in results):
        raise InputError(f"{refused} of {len(results)} volumes refused")


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 9002,
    host: Annotated[str, typer.Option(help="address to listen on; whoever reaches it may send")] = "127.0.0.1",
    models: Annotated[
        Path | None, typer.Option(help="folder with varnet/ and rcan/; default: what comes with Frost")
    ] = None,
    acceleration: Annotated[
        float | None, typer.Option(help="mask fully sampled scans at this R; default: what RCAN was trained for", min=1)
    ] = None,
    center_fraction: Annotated[
        float | None, typer.Option(help="share of centre lines in that mask; default: as trained", min=0, max=1)
    ] = None,
    ensemble: Annotated[
        Literal["none", "flip", "seed", "dihedral"], typer.Option(help="average RCAN over changes of its input")
    ] = "none",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default: the best there is")] = None,
    consistent: Annotated[bool, typer.Option(help="put the measured lines back into RCAN's image")] = False,
    memory: Annotated[float, typer.Option(help="GiB that one connection may send", min=0.001, max=1024)] = 4.0,
    connections: Annotated[int, typer.Option(help="at once; others are told to come again", min=1)] = 4,
) -> None:
    """Reconstruct scans as they are measured: an MRD streaming server for clients of Gadgetron's protocol.

    Takes acquisitions and sends an image back when a slice is whole: those of `frost reconstruct --format mrd` of the
    same scan. Ctrl-C or SIGTERM ends it. There is no authentication: leave it on this machine, and reach it through an
    SSH tunnel.

    Example: frost serve --port 9002
    """
    from frost.pipeline.processes.ending import kept_so_far
    from frost.reconstruction.live import default_models, load_models, new_masks
    from frost.serving.server import Limits, Server, log_line
    from frost.serving.session import Settings

    folder = models or default_models()
    networks = load_models(folder, _device(device))
    masks = new_masks(networks, acceleration, center_fraction)
    settings = Settings(networks, masks, int(memory * 2**30), ensemble, consistent)
    with Server(host, port, settings, Limits(connections), log_line) as server:
        kept_so_far("images that were sent stay sent")
        log_line(f"listening on {host}:{server.port}, networks {folder if models else folder.name}")
        server.serve_forever()


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def job(command: Annotated[list[str], typer.Argument(help="what to run, with its arguments")]) -> None:
    """Run a command as a Slurm job that may take longer than its time limit: `exec frost job dvc repro`.

    With `#SBATCH --signal=B:TERM@120` Slurm gives notice before the limit. The stage then ends, its state is kept, and
    the job is queued again; the exit status is 75. docs/cluster.md has the batch script.
    """
    from frost.cluster.requeue import run_job

    sys.exit(run_job(command))


@app.command()
def sweep(
    set_param: Annotated[list[str], typer.Option("-S", "--set-param", help="as of `dvc exp run --queue`: KEY=1,2,3")],
    name: Annotated[str, typer.Option("-n", "--name", help="what the names of the experiments begin with")] = "",
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", help="how many at a time; default: 1 here", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the experiments and run none")] = False,
) -> None:
    """Run an experiment for every choice of params, each in a clone of its own; `dvc exp show` then has them all.

    They start from the last commit and share DVC's cache and the store, so that nothing is computed twice. Those that
    are there already are kept: the same line again goes on.

    Example: frost sweep -S train_rcan.fit.seed=0,1,2 -S 'train_rcan.network.features=32,64' -j 2
    """
    from frost.cluster.choices import plan
    from frost.cluster.sweep import sweep as run

    if not dry_run:
        run(set_param, name, jobs)
        return
    planned, there = plan(set_param, name)
    for one in planned.experiments:
        words = " ".join(f"-S {word}" for word in one.words)
        typer.echo(f"{one.name}: {words}{' (is there)' if one.name in there else ''}")


def _end_with(failed: list[str], what: str) -> NoReturn:
    """A line for each volume that failed, and exit status 1."""
    for line in failed:
        sys.stderr.write(f"error: {line}\n")
    raise InputError(f"{len(failed)} of the volumes {what}")


def finite(value: Any) -> Any:
    """The same for JSON, which has no word for a number that is not one: null."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Entry point: an InputError, or a file that cannot be read or written, is one line and exit status 1."""
    end_on_signals("run it again")
    forget_other_launchers()
    try:
        app()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
