"""Espalier's engine: rank once, cut anywhere. Usable from a notebook; never imports streamlit.

bench = prepare("minilm", ["sample"])             open the model, read the data, embed (cached)
cut = judge_cut(bench, parse("dimensions/svd keep=128"))    rank -> select -> apply -> measure -> compare
cut.retention["sample"]["ndcg@10"].ratio          what is kept, with its interval and p-value
found = study(bench, bench.judges[0], Step("dimensions/svd"))   every ratio at once
found.recommended("ndcg@10", floor=0.98)          the largest cut that keeps 98 %

load -> embed -> rank -> select -> apply -> evaluate -> compare -> view | export
"""

from core.bench import Bench, Judge, prepare
from core.embedding import embed
from core.encoders import open_model
from core.errors import EspalierError, InputError
from core.judging import measure, rank
from core.pipeline import judge_cut
from core.plan import Cut, Plan, Step, parse
from core.select import apply, select
from core.sweeps import curve
from core.verdict import Study, study

__all__ = [
    "Bench",
    "Cut",
    "EspalierError",
    "InputError",
    "Judge",
    "Plan",
    "Step",
    "Study",
    "apply",
    "curve",
    "embed",
    "judge_cut",
    "measure",
    "open_model",
    "parse",
    "prepare",
    "rank",
    "select",
    "study",
]
