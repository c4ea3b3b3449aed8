"""How do a fit's draws reach ArviZ?

`to_arviz` puts arrays into ArviZ's groups with named dimensions, `to_netcdf` writes
them to a file and `summary` tabulates them. ArviZ 0.x holds groups in an
`InferenceData`, ArviZ 1.x in an xarray `DataTree`; callers need not know which one is
installed. What goes into the groups is decided by `bbvi.result`; nothing is computed
here that ArviZ computes. ArviZ takes a second to import, so it is imported on use.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Group = Mapping[str, ArrayLike]
"""The arrays of one ArviZ group by name."""
Dims = Mapping[str, Sequence[str | None]]
"""Names of each site's dimensions, without those of the draws."""

_SAMPLE_DIMS = ("chain", "draw")
_FIXED = ("observed_data", "constant_data")
"""The groups without draws."""


def to_arviz(
    posterior: Group,
    *,
    dims: Dims,
    plates: Dims | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    sample_stats: Group | None = None,
    log_likelihood: Group | None = None,
    posterior_predictive: Group | None = None,
    prior: Group | None = None,
    prior_predictive: Group | None = None,
    observed_data: Group | None = None,
    constant_data: Group | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Return the groups as ArviZ's own container.

    An `arviz.InferenceData` with ArviZ 0.x, an `xarray.DataTree` with ArviZ 1.x. Draws
    of a guide are independent: they become one chain, dimensions ``chain`` (1) and
    ``draw``. Dtypes are kept, so discrete sites stay integers. A dimension that is
    itself called ``chain`` or ``draw`` (a plate can be) is renamed ``chain_``,
    ``draw_``; one without a name is called ``<site>_dim_<axis>``.

    Args:
        posterior: draws by site, each `(num_draws, *site.shape)`.
        dims: names of the leading axes of each array after that of the draws, ``None``
            for one without a name. One name list serves a site in every group; in
            ``log_likelihood``, where a site lacks its event axes, their names lapse.
        plates: likewise, for sites that are not in ``dims`` and may be in no group.
        coords: labels along a dimension, by its name; default 0, 1, 2, ...
        sample_stats: a number a draw, such as ``log_p`` and ``log_q``, `(num_draws,)`.
        log_likelihood: of each observation, `(num_draws, *site.shape)`.
        posterior_predictive: draws of observed sites, `(num_draws, *site.shape)`.
        prior: draws from the prior, `(num_draws, *site.shape)`.
        prior_predictive: of observed sites, given those, `(num_draws, *site.shape)`.
        observed_data: what was conditioned on, `site.shape`.
        constant_data: the model's other arrays, any shape; ArviZ 0.x makes a number
            an array of one.
        attrs: facts about the fit, such as the verdict. Strings and numbers are kept,
            anything else is written as text, as netCDF knows only these.

    Raises:
        TypeError: if ``dims`` or ``coords`` are not mappings to lists.
        ValueError: if arrays, ``dims`` and ``coords`` disagree, or name what no group
            has; all problems at once.

    Example:
        >>> tree = to_arviz({"b": np.zeros((100, 2))}, dims={"b": ["group"]})
        >>> tree["posterior"]["b"].dims
        ('chain', 'draw', 'group')
    """
    given = {
        "posterior": posterior,
        "sample_stats": sample_stats,
        "log_likelihood": log_likelihood,
        "posterior_predictive": posterior_predictive,
        "prior": prior,
        "prior_predictive": prior_predictive,
        "observed_data": observed_data,
        "constant_data": constant_data,
    }
    groups = {name: _arrays(group) for name, group in given.items() if group}
    _check_lists("dims", dims)
    _check_lists("coords", coords or {})
    free = {dim: f"{dim}_" for dim in _SAMPLE_DIMS}
    known = {site for group in groups.values() for site in group}
    problems = _unknown("dims", dims, "site", known)
    dims = {**(plates or {}), **dims}
    dims = {site: [free.get(d or "", d) for d in names] for site, names in dims.items()}
    labels = {free.get(dim, dim): along for dim, along in (coords or {}).items()}
    named = {d for site in known & set(dims) for d in dims[site] if d}
    problems += _unknown("coords", labels, "dimension", named)
    for name, group in groups.items():
        problems += _draws_problems(name, group)
        problems += _dims_problems(name, _shapes(name, group), dims, labels)
    if problems:
        raise ValueError("to_arviz: " + "\n".join(problems))
    return _container(groups, dims, labels, _attributes(attrs or {}))


def to_netcdf(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write what `to_arviz` returned to a netCDF file; `arviz.from_netcdf` reads it.

    Args:
        tree: an `InferenceData` or a `DataTree`.
        path: of the file, which is overwritten.
    """
    tree.to_netcdf(os.fspath(path))


def summary(
    tree: Any,
    *,
    var_names: Iterable[str] | None = None,
    ci_prob: float | None = None,
) -> "pd.DataFrame":
    """Return a table of the posterior, one row for each element of each site.

    ArviZ's own summary: mean, standard deviation and the interval of its settings
    (``hdi_3%``, ``hdi_97%`` in ArviZ 0.x, ``eti89_lb``, ``eti89_ub`` in 1.x). Sites of
    integers or booleans also have their most frequent value, ``mode``, and its
    probability, ``p(mode)``. R-hat, effective sample size and Monte-Carlo error are
    left out: for independent draws they restate the number of draws, and would read as
    if they vouched for the approximation. Numbers are not rounded. Sites without
    elements (an empty plate) have no row.

    Args:
        tree: what `to_arviz` returned.
        var_names: sites to show; default all.
        ci_prob: probability of the interval; default ArviZ's.

    Raises:
        ValueError: if ``var_names`` has a name that is not in the posterior.

    Example:
        >>> tree = to_arviz({"z": np.array([0, 1, 1, 1])}, dims={})
        >>> summary(tree).loc["z", "mode"]
        np.int64(1)
    """
    import pandas as pd

    posterior = _posterior(tree, var_names)
    if not posterior:
        return pd.DataFrame(columns=["mean", "sd"], dtype=np.float64)
    rows = _arviz_summary(posterior.map(_as_number), ci_prob)
    table = pd.DataFrame(rows.to_numpy(np.float64), rows.index, list(rows.columns))
    discrete = [_is_discrete(site) for site in posterior.values() for _ in _rows(site)]
    if any(discrete):
        modes = [_mode(row) for site in posterior.values() for row in _rows(site)]
        table["mode"] = pd.array([mode for mode, _ in modes], dtype="Int64")
        table["p(mode)"] = [probability for _, probability in modes]
    return table


def _arrays(group: Group) -> dict[str, NDArray[Any]]:
    return {site: np.asarray(array) for site, array in group.items()}


def _shapes(name: str, group: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes without draws."""
    start = 0 if name in _FIXED else 1
    return {site: array.shape[start:] for site, array in group.items()}


def _draws_problems(name: str, group: Mapping[str, NDArray[Any]]) -> list[str]:
    lengths = {array.shape[:1] for array in group.values()}
    if name in _FIXED or (len(lengths) == 1 and () not in lengths):
        return []
    shapes = ", ".join(f"'{site}' {array.shape}" for site, array in group.items())
    return [
        f"group '{name}': expected a leading axis of draws, equally long at every "
        f"site; found {shapes}."
    ]


def _check_lists(argument: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"to_arviz: {argument} must map names to lists; found {given!r}"
        )
    for name, names in given.items():
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(
                f"to_arviz: {argument}[{name!r}] must be a list; found {names!r}"
            )


def _unknown(
    argument: str, given: Iterable[str], what: str, known: Collection[str]
) -> list[str]:
    return [
        f"{argument}: expected a {what} of the fit, one of {sorted(known)}; found "
        f"{name!r}"
        for name in given
        if name not in known
    ]


def _dims_problems(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Dims,
    coords: Mapping[str, Sequence[Any]],
) -> list[str]:
    """Return what xarray would refuse in words of its own, or quietly reshape."""
    problems = []
    sizes = {dim: (len(labels), "coords") for dim, labels in coords.items()}
    for site, shape in shapes.items():
        names = dims.get(site, ())
        where = f"group '{name}', site '{site}'"
        if len(names) > len(shape) and name != "log_likelihood":
            problems.append(
                f"{where}: expected a name for each axis at most; found {list(names)} "
                f"for shape {shape}. Leave out the names that have no axis."
            )
        named = [(dim, n) for dim, n in zip(names, shape, strict=False) if dim]
        if len(dict(named)) < len(named) or any(dim in shapes for dim, _ in named):
            problems.append(
                f"{where}: expected dimensions named apart from each other and from "
                f"the group's sites; found {list(names)}. Rename one in dims."
            )
        for dim, size in named:
            known, source = sizes.setdefault(dim, (size, f"site '{site}'"))
            if known != size:
                problems.append(
                    f"{where}: expected size {known} along dimension '{dim}', as in "
                    f"{source}; found {size}. Rename it in dims, or mend coords."
                )
    return problems


def _attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        release = version("bbvi")
    except PackageNotFoundError:
        release = "not installed"
    own = {"inference_library": "bbvi", "inference_library_version": release}
    return own | {name: _attribute(value) for name, value in attrs.items()}


def _attribute(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return str(value)


def _container(
    groups: Mapping[str, Mapping[str, NDArray[Any]]],
    dims: Dims,
    coords: Mapping[str, Sequence[Any]],
    attrs: Mapping[str, Any],
) -> Any:
    import xarray as xr

    arviz = _arviz()

    # `arviz.from_dict` would take one `dims` for all groups, and name the axes that it
    # leaves open by their number in 0.x, but by their number among these in 1.x.
    keyword = "default_dims" if _is_arviz_0(arviz) else "sample_dims"
    datasets = {}
    for name, group in groups.items():
        has_draws = name not in _FIXED
        datasets[name] = arviz.dict_to_dataset(
            {
                site: array[None] if has_draws else array
                for site, array in group.items()
            },
            dims=_all_names(_shapes(name, group), dims),
            coords=coords,
            attrs=attrs if name == "posterior" else None,
            **{keyword: list(_SAMPLE_DIMS) if has_draws else []},
        )
    if _is_arviz_0(arviz):
        return arviz.InferenceData(attrs=attrs, **datasets)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **datasets})


def _all_names(
    shapes: Mapping[str, tuple[int, ...]], dims: Dims
) -> dict[str, list[str]]:
    """Return a name for each axis of each array."""
    names = {}
    for site, shape in shapes.items():
        known = [*dims.get(site, ()), *[None] * len(shape)][: len(shape)]
        names[site] = [dim or f"{site}_dim_{i}" for i, dim in enumerate(known)]
    return names


def _arviz() -> Any:
    """Return the module, untyped: the generations differ in their signatures."""
    import arviz

    return arviz


def _is_arviz_0(arviz: Any) -> bool:
    return arviz.__version__.startswith("0.")


def _posterior(tree: Any, var_names: Iterable[str] | None) -> "xr.Dataset":
    posterior = tree["posterior"]
    if hasattr(posterior, "to_dataset"):  # a node of a DataTree
        posterior = posterior.to_dataset()
    names = list(posterior) if var_names is None else list(var_names)
    unknown = [name for name in names if name not in posterior]
    if unknown:
        raise ValueError(
            f"summary: expected sites of the posterior in var_names; found {unknown}. "
            f"There are {list(posterior)}."
        )
    return posterior[[name for name in names if posterior[name].size]]


def _arviz_summary(posterior: "xr.Dataset", ci_prob: float | None) -> "pd.DataFrame":
    arviz = _arviz()
    name = "hdi_prob" if _is_arviz_0(arviz) else "ci_prob"
    return arviz.summary(posterior, kind="stats", round_to="none", **{name: ci_prob})


def _as_number(site: "xr.DataArray") -> "xr.DataArray":
    return site.astype(np.int8) if site.dtype == bool else site


def _is_discrete(site: "xr.DataArray") -> bool:
    return site.dtype.kind in "iub"


def _rows(site: "xr.DataArray") -> NDArray[Any]:
    """Return the draws of each element, in the order of the summary's rows."""
    draws = site.transpose(*_SAMPLE_DIMS, ...).to_numpy()
    return draws.reshape(draws.shape[0] * draws.shape[1], -1).T


def _mode(draws: NDArray[Any]) -> tuple[int | None, float]:
    if draws.dtype.kind not in "iub":
        return None, float("nan")
    values, counts = np.unique(draws, return_counts=True)
    most = np.argmax(counts)
    return int(values[most]), float(counts[most] / draws.size)
