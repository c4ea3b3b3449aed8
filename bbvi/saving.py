"""Arrays and a header on disk: one ``.npz`` file, no pickle."""

import json
from os import PathLike
from typing import Any

import jax
import numpy as np

VERSION = 1
"""Of the file's layout."""

Groups = dict[str, dict[str, Any]]


def write(path: str | PathLike[str], header: dict[str, Any], groups: Groups) -> None:
    """Write groups of arrays, and a header of what JSON knows."""
    arrays = {
        f"{group}/{name}": np.asarray(value)
        for group, members in groups.items()
        for name, value in members.items()
    }
    text = np.array(json.dumps({"version": VERSION, **header}))
    with open(path, "wb") as file:
        np.savez_compressed(file, header=text, **arrays)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], Groups]:
    """Header and groups of arrays that `write` wrote.

    Raises:
        ValueError: It wrote something else.
    """
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):  # text, or a pickle
        file = None
    if not isinstance(file, np.lib.npyio.NpzFile) or "header" not in file:
        raise ValueError(f"{path} is no file that Fit.save wrote")
    with file:
        header = json.loads(str(file["header"]))
        groups: Groups = {}
        for name in file.files:
            if "/" in name:
                group, member = name.split("/", 1)
                groups.setdefault(group, {})[member] = file[name]
    if header.pop("version") != VERSION:
        raise ValueError(f"{path} has another layout than this version of bbvi reads")
    return header, groups


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
