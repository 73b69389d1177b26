"""The site as Dask's configuration holds it."""

from collections.abc import Mapping
from typing import Any

from dask_site.sitefile.problems import Path, single
from dask_site.sitefile.reader import ROOT
from dask_site.sitefile.report import Models, keys_at

_SOURCE = "Dask's configuration"


def from_dask_config(models: Models) -> tuple[Any, str]:
    """Return what Dask's merged configuration holds under `dask_site`, and where it came from.

    Raises
    ------
    SiteError
        If there is nothing, or a file of the configuration can't be read.
    """
    try:
        import dask.config
    except ValueError as error:  # `import dask` reads all of its configuration
        raise single(_SOURCE, "", str(error), "mend or remove the file") from None
    data = dask.config.get(ROOT, None)
    if data is None:
        looked_in = ", ".join(dict.fromkeys(map(str, dask.config.paths)))
        raise single(
            _SOURCE,
            ROOT,
            f"no site is configured (looked in {looked_in})",
            'run: module load dask-site; or use Cluster("site.yml"); '
            "or set DASK_CONFIG=/path/to/site.yml",
        )
    layers = _layers(dask.config)
    return _in_order(_with_underscores(data, (), models), layers), _source(layers)


def _layers(config: Any) -> list[tuple[str, Any]]:
    """Return each file that describes the site, the centre's before the user's."""
    layers = []
    try:
        for path, content in config.collect_yaml(config.paths, return_paths=True):
            layer = config.get(ROOT, None, config=content)
            if layer is not None:
                layers.append((str(path), layer))
    except ValueError:  # changed since it was read: what was read counts
        return []
    return layers


def _source(layers: list[tuple[str, Any]]) -> str:
    return " + ".join(dict.fromkeys(path for path, _ in layers)) or _SOURCE


def _in_order(data: Any, layers: list[tuple[str, Any]]) -> Any:
    """Put the pools in the order of the centre's file.

    Dask merges from the user's file outwards, so that a user who changes one pool would make it
    the first, that is the cheapest.
    """
    pools = data.get("pools") if isinstance(data, Mapping) else None
    if not isinstance(pools, Mapping):
        return data
    known = [layer.get("pools") for _, layer in layers if isinstance(layer, Mapping)]
    order = dict.fromkeys(name for p in known if isinstance(p, Mapping) for name in p)
    ordered = {name: pools[name] for name in order if name in pools}
    return {**data, "pools": {**ordered, **pools}}


def _with_underscores(data: Any, path: Path, models: Models) -> Any:
    """Spell the keys of the format with underscores: Dask takes both, and keeps the first met."""
    if not isinstance(data, Mapping):
        return data
    known = keys_at(path, models)
    renamed = {
        key.replace("-", "_") if isinstance(key, str) and key.replace("-", "_") in known else key: v
        for key, v in data.items()
    }
    return {key: _with_underscores(v, (*path, key), models) for key, v in renamed.items()}
