"""Where the store is: beside DVC's cache, or where the environment has it."""

import configparser
import os
from pathlib import Path

from platformdirs import site_config_dir, user_config_dir

from frost.errors import InputError

#: beside simulated scans: sha256 of each file of `simulate.heads`, which DVC does not follow, by its name
HEADS = "heads.json"


def store_root() -> Path:
    """`FROST_STORE`, else `frost-store` beside DVC's cache, which temporary workspaces of experiments share.

    There the links that stages make cost nothing. Raises InputError outside a DVC repository.
    """
    if given := os.environ.get("FROST_STORE"):
        return Path(given).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return dvc_cache(folder / ".dvc").parent / "frost-store"
    raise InputError(f"{here}: not in a DVC repository; set FROST_STORE to the folder of the store")


def curves_root() -> Path:
    """`frost-curves` beside DVC's cache: live curves of all experiments, also of those in temporary workspaces."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return dvc_cache(folder / ".dvc").parent / "frost-curves"
    raise InputError(f"{here}: not in a DVC repository, which live curves need")


def dvc_cache(dvc: Path) -> Path:
    """Where DVC has its cache, from its config, without the seconds that importing DVC takes."""
    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative")
    user = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative")
    cache = dvc / "cache"
    for file in (Path(system) / "config", Path(user) / "config", dvc / "config", dvc / "config.local"):
        config = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            config.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            raise InputError(f"{file}: not a config of DVC") from None
        if given := config.get("cache", "dir", fallback=None):
            cache = file.parent / Path(given.strip("\"'")).expanduser()
    return Path(os.path.abspath(cache))  # noqa: PTH100  # "a/../b" made "b", symbolic links left as they are
