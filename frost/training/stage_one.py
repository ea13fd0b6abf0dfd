"""What stage 1 starts from and depends on: fresh weights or somebody's, with or without a training."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from frost.cache.sources import source_digest
from frost.networks.common.checkpoint import build, chosen
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams, Params
from frost.scans.volumes import Volume
from frost.training.fit import FitParams
from frost.training.pretrained import Pretrained, load_pretrained, pretrained_digest, trained_on
from frost.training.scan_dataset import ScanParams

WHERE = "params.yaml: train_varnet.network"


class TrainVarNetParams(Params):
    """Section `train_varnet` of params.yaml."""

    import_: str | None = Field(
        alias="import",
        description="weights to take: a file of fastMRI's, Lightning's or an SNU baseline's, or a folder",
    )
    fine_tune: bool = Field(description="train on from the imported weights")
    folds: int = Field(
        ge=1, description="K extra networks, each trained without its fold, whose images are cached; 1: none"
    )
    network: NamedParams
    scans: ScanParams
    fit: FitParams

    @model_validator(mode="after")
    def _possible(self) -> "TrainVarNetParams":
        if self.import_ is None and self.fine_tune:
            raise ValueError("fine_tune needs the weights that import names")
        if self.import_ is not None and self.folds > 1:
            raise ValueError("folds must be 1 with import: every fold would start from weights that saw other volumes")
        return self

    @property
    def trains(self) -> bool:
        """Whether there is a training, or imported weights stay as they are."""
        return self.import_ is None or self.fine_tune

    @property
    def memory(self) -> dict[str, object]:
        """What params.yaml still says of an imported network: how it saves memory, which changes no number."""
        rest = self.network.rest
        return {"coils_at_once": rest.get("coils_at_once"), "checkpointing": bool(rest.get("checkpointing"))}


def beginning(params: TrainVarNetParams) -> Pretrained:
    """The network before its training: imported, or with fresh weights that saw nothing."""
    if params.import_ is None:
        return Pretrained(params.network.name, build(KSPACE_NETWORKS, params.network, where=WHERE), [])
    return load_pretrained(Path(params.import_), params.memory)


def facts(params: TrainVarNetParams, train: Iterable[Volume], val: Iterable[Volume]) -> dict[str, object]:
    """What the network depends on; of imported weights their bytes, not their place."""
    depends: dict[str, object] = {}
    if params.import_ is not None:
        path, modules = Path(params.import_), ["frost.training.pretrained"]
        depends |= {"import": pretrained_digest(path), "trained_on": trained_on(path), "memory": params.memory}
    else:
        modules = [chosen(KSPACE_NETWORKS, params.network, WHERE).__module__]
        depends["network"] = params.network.model_dump(mode="json")
    if params.trains:
        modules += ["frost.training.fit", "frost.training.scan_dataset"]
        depends |= params.model_dump(mode="json", include={"scans", "fit"}, exclude={"fit": {"loader", "curves"}})
        depends["volumes"] = {
            split: [volume.facts() for volume in some] for split, some in (("train", train), ("val", val))
        }
    own = [
        "stages.train_varnet",
        "frost.training.stage_one",
        "frost.networks.common.checkpoint",
        "frost.cache.folds",
        "frost.training.trained",
    ]
    return depends | {"sources": source_digest(*modules, alone=own)}
