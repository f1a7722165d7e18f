"""Sets that are known by name, as data: where they are, how their rows are read, what others published on them.

A number is here only with the place where it can be read. A set without a place on the hub is one whose problems are
published, but whose candidates everybody samples: give them as `name=FILE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from rfprm_lite.bundle.hub import fetch_dataset_file
from rfprm_lite.errors import InputError
from rfprm_lite.options import LoadOptions

BUNDLED = Path(str(files("rfprm_lite"))) / "models"


@dataclass(frozen=True, slots=True)
class Published:
    """Numbers that somebody published.

    Attributes:
        model: Whose numbers they are.
        numbers: By the part of the set, or by what the source calls them; in percent.
        source: Where they stand.
    """

    model: str
    numbers: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A set that has a name.

    Attributes:
        form: How its rows are read, a name of `FORMS`; the parts of the demo have their own.
        about: What it is, in words.
        licence: Of the data.
        parts: The file of each part, in the repository or in this package; none where it is to be given.
        repo: The data set on the hub; None where it is not there.
        commit: Of the repository, so that everybody evaluates the same rows.
        columns: Of fields, where they are not the form's own.
        grader: That suits its answers; None where nothing is graded.
        number: What the published numbers are.
        published: Numbers of others.
    """

    form: str | None
    about: str
    licence: str
    parts: Mapping[str, str] = field(default_factory=dict)
    repo: str | None = None
    commit: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    grader: str | None = None
    number: str = ""
    published: tuple[Published, ...] = ()

    @property
    def source(self) -> str:
        """Where it is from and its licence, in words."""
        place = f", {self.repo} at {self.commit}" if self.repo else ""
        return f"{self.about}{place} ({self.licence})"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of rows to evaluate.

    Attributes:
        name: What reports call it.
        path: The file.
        known: The set that it is a part of; None for a file of yours.
        source: Where it is from, in words.
    """

    name: str
    path: Path
    known: KnownSet | None
    source: str


def _pools(about: str, licence: str, grader: str) -> KnownSet:
    return KnownSet("pools", about, licence, grader=grader)


_PROCESSBENCH = "arXiv 2412.06559, table 3, as others quote it"
_PRMBENCH = "ssmisya/PRMBench, README.md at 14b1b89"

SETS: dict[str, KnownSet] = {
    "demo": KnownSet(
        form=None,
        about="Problems of the demo model's domain that it was not trained on (examples/train_demo_prm/demo_set.py)",
        licence="Apache-2.0",
        parts={"first-errors": "demo_first_errors.jsonl", "pools": "demo_pools.jsonl"},
        grader="number",
    ),
    "processbench": KnownSet(
        form="processbench",
        about="ProcessBench, arXiv 2412.06559",
        licence="Apache-2.0",
        parts={name: f"{name}.json" for name in ("gsm8k", "math", "olympiadbench", "omnimath")},
        repo="Qwen/ProcessBench",
        commit="3bdcd5371ed567559a78f559c01c13a6deee7604",
        number="F1",
        published=(
            Published(
                "Qwen/Qwen2.5-Math-7B-PRM800K",
                {"gsm8k": 68.2, "math": 62.6, "olympiadbench": 50.7, "omnimath": 44.3, "average": 56.5},
                _PROCESSBENCH,
            ),
            Published(
                "Qwen/Qwen2.5-Math-PRM-7B", {"average": 73.5}, "arXiv 2501.07301, table 7, as quoted in discussion 9"
            ),
            Published(
                "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B",
                {"gsm8k": 70.8, "math": 53.6, "olympiadbench": 22.9, "omnimath": 21.0, "average": 42.1},
                _PROCESSBENCH,
            ),
            Published(
                "peiyi9979/math-shepherd-mistral-7b-prm",
                {"gsm8k": 47.9, "math": 29.5, "olympiadbench": 24.8, "omnimath": 23.8, "average": 31.5},
                _PROCESSBENCH,
            ),
            Published(
                "axolotl-ai-co/Qwen2.5-Math-PRM-7B",
                {"gsm8k": 71.0, "math": 64.6, "olympiadbench": 46.0, "omnimath": 38.3, "average": 55.0},
                "axolotl-cookbook, README.md of its PRM",
            ),
        ),
    ),
    "prmbench": KnownSet(
        form="prmbench",
        about="PRMBench, arXiv 2501.03124",
        licence="Apache-2.0",
        parts={"preview": "prmbench_preview.jsonl"},
        repo="hitsmy/PRMBench_Preview",
        commit="5cc7683d0ae5797f84d7aeac0607966f277c39e1",
        number="PRMScore",
        published=(
            Published(
                "GAIR/ReasonEval-7B",
                {"overall": 60.0, "simplicity": 55.5, "soundness": 63.9, "sensitivity": 71.0},
                _PRMBENCH,
            ),
            Published(
                "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
                {"overall": 54.2, "simplicity": 47.6, "soundness": 57.5, "sensitivity": 68.1},
                _PRMBENCH,
            ),
            Published(
                "peiyi9979/math-shepherd-mistral-7b-prm",
                {"overall": 47.0, "simplicity": 47.1, "soundness": 45.7, "sensitivity": 60.7},
                _PRMBENCH,
            ),
            Published(
                "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B",
                {"overall": 36.2, "simplicity": 38.4, "soundness": 32.7, "sensitivity": 54.3},
                _PRMBENCH,
            ),
        ),
    ),
    "gsm8k": _pools("GSM8K, arXiv 2110.14168, with candidates of yours", "MIT", "math"),
    "math500": _pools("500 problems of MATH, arXiv 2305.20050, with candidates of yours", "MIT", "math"),
    "aime24": _pools("AIME 2024 with candidates of yours", "of the competition", "math"),
    "aime25": _pools("AIME 2025 with candidates of yours", "of the competition", "math"),
    "amc23": _pools("AMC 2023 with candidates of yours", "of the competition", "math"),
    "gpqa-diamond": _pools("GPQA-Diamond, arXiv 2311.12022, with candidates of yours", "CC-BY-4.0", "letter"),
}


def parts_of(spec: str, options: LoadOptions) -> Sequence[Part]:
    """The files that a name stands for, downloaded where they are not here.

    Args:
        spec: A file; the name of a known set, or of one of its parts (`processbench:math`); `NAME=FILE`, for a file in
            a known set's form; or a file of a data set on the hub (`org/name:file`, or `org/name@revision:file`).
        options: The hub's cache, and whether the network may be used.

    Raises:
        InputError: If it is none of these.
        ModelNotFoundError: If a file can't be had from the hub.
    """
    path = Path(spec)
    if path.is_file():
        return [Part(path.name.split(".")[0], path, None, "")]
    name, given, file = spec.partition("=")
    if given and name in SETS:
        if not Path(file).is_file():
            raise InputError(f"{spec}: there is no file {file}")
        return [Part(name, Path(file), SETS[name], SETS[name].source)]
    name, _, part = spec.partition(":")
    if name in SETS:
        return _known_parts(name, part, options)
    repo, _, revision = name.partition("@")
    if "/" in repo and part:
        found = fetch_dataset_file(repo, part, revision or None, options)
        commit = found.commit
        return [Part(f"{repo}:{part}", found.path, None, f"{repo} at {commit}")]
    raise InputError(
        f"{spec} is no file here, none of the known sets ({', '.join(SETS)}), and no file on the hub of the form "
        "org/name@commit:file"
    )


def _known_parts(name: str, part: str, options: LoadOptions) -> Sequence[Part]:
    known = SETS[name]
    if not known.parts:
        raise InputError(f"{name} has no candidates of its own: sample some, and give them as {name}=FILE")
    if part and part not in known.parts:
        raise InputError(f"{name} has no part {part!r}: it has {', '.join(known.parts)}")
    chosen = [part] if part else [*known.parts]
    found = []
    for one in chosen:
        file = known.parts[one]
        path = fetch_dataset_file(known.repo, file, known.commit, options).path if known.repo else BUNDLED / file
        whole = name if len(known.parts) == 1 else f"{name}:{one}"
        found.append(Part(whole, path, known, known.source))
    return found
