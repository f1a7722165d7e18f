"""The options by which a bundle is opened and run: plain data, so that another process can open the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from rfprm_lite.written.splitting import Splitter

CACHE_BYTES = 256 * 2**20

Truncate = Literal["authors", "drop-oldest-thoughts"]
"""How a text that is too long is shortened; see `LoadOptions.truncate`."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The keyword arguments of `PRM.from_pretrained`, as one value for whoever passes them on.

    Attributes:
        variant: Such as "fp32"; the bundle's default for the device where None.
        device: "cpu", "cuda" or "cuda:N".
        threads: Threads of one run, within an operator; one a physical core that the process may use where None.
        revision: Branch, tag or commit of a hub id.
        cache_dir: The hub's cache, in place of HF_HOME's.
        local_files_only: Never touch the network.
        verify: Check each file's sha256. Sizes are always checked.
        cache_bytes: Keys and values that are kept between calls; 0 for none.
        memory_bytes: What a call may take beside the loaded model; no limit where None.
        truncate: How a text that is longer than the model reads is shortened: "authors" cuts its end, where the
            authors' own code does; "drop-oldest-thoughts" leaves out the oldest steps of the thinking part, whose
            rewards are then NaN. An error where None.
        splitter: How text is split into steps, as in `Trace.parse`; the recipe's own way where None.
    """

    variant: str | None = None
    device: str = "cpu"
    threads: int | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    verify: bool = True
    cache_bytes: int = CACHE_BYTES
    memory_bytes: int | None = None
    truncate: Truncate | None = None
    splitter: Splitter | None = None


class LoadKeywords(TypedDict, total=False):
    """The same as keyword arguments, each as in `LoadOptions`; a test holds the two together."""

    variant: str | None
    device: str
    threads: int | None
    revision: str | None
    cache_dir: str | Path | None
    local_files_only: bool
    verify: bool
    cache_bytes: int
    memory_bytes: int | None
    truncate: Truncate | None
    splitter: Splitter | None
