"""Looks for files that break a reader, by coverage: a file by which a new line of code runs is kept, and changed again.

    python guided.py TARGET SECONDS FOLDER

Needs atheris (`pip install --group fuzz`). The target's files in tests/data/fuzz are where it begins. A file that ends
in an error that is not ours is left in FOLDER, and the exit code is not 0. The last line of standard error that begins
with "Done" tells how many files were read.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rfprm_lite", "rfprm_export"], enable_loader_override=False):
    from targets import CORPUS, TARGETS

from mutating import mutated
from rfprm_lite.errors import RfprmError

MOST_SECONDS = 10
MOST_MEGABYTES = 2048
OURS = 0.5
"""The part of the changes that know JSON; the others are libFuzzer's."""


def main(name: str, seconds: str, folder: str) -> None:
    (target,) = (target for target in TARGETS if target.name == name)
    seeds = target.seeds
    longest = max(4096, 2 * max(map(len, seeds)))
    read = target.reader(Path(tempfile.mkdtemp(dir=folder)))
    found = tempfile.mkdtemp(dir=folder)

    def one(data: bytes) -> None:
        with contextlib.suppress(RfprmError):
            read(data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        generator = random.Random(seed)
        if generator.random() < OURS:
            return mutated(generator, [data, data, *seeds])[:most]
        return bytes(atheris.Mutate(data, most))

    options = {
        "max_total_time": seconds,
        "max_len": longest,
        "timeout": MOST_SECONDS,
        "rss_limit_mb": MOST_MEGABYTES,
        "artifact_prefix": f"{folder}/broke-it-",
    }
    arguments = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), found, str(CORPUS / name)]
    atheris.Setup(arguments, one, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
