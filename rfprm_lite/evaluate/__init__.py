"""How good is this judge? Items with labels, a PRM's rewards for them, and numbers with intervals.

>>> from rfprm_lite.evaluate import evaluate, read
>>> evaluate(prm, read("gsm8k.jsonl")).value("processbench", "f1")
"""

from rfprm_lite.evaluate.compare import Comparison, compare
from rfprm_lite.evaluate.items import Bad, Candidate, Item, Items
from rfprm_lite.evaluate.judged import Judged, judge, with_own_scores, with_scores_of
from rfprm_lite.evaluate.reading import read
from rfprm_lite.evaluate.report import Report
from rfprm_lite.evaluate.result import Result
from rfprm_lite.evaluate.run import evaluate
from rfprm_lite.evaluate.statistics import Estimate

__all__ = [
    "Bad",
    "Candidate",
    "Comparison",
    "Estimate",
    "Item",
    "Items",
    "Judged",
    "Report",
    "Result",
    "compare",
    "evaluate",
    "judge",
    "read",
    "with_own_scores",
    "with_scores_of",
]
