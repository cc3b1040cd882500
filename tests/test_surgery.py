"""Slicing, walking and refitting an encoder: masked = sliced, declared sizes true, least squares by its oracles."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LinearRegression, Ridge
from torch import nn

from core.anatomy import Anatomy, duplicate
from core.calibration import batches, hooked, sentence_vectors, valid
from core.surgery import least_squares, output_map
from core.surgery.least_squares import Moments, eliminate, refit, ridge
from core.surgery.rebuild import Cuts, rebuild
from core.surgery.slicing import cut_heads, cut_layers, cut_neurons, cut_width, pad, trim
from core.surgery.walk import Walker
from tests.tiny_models import ARCHITECTURES, HEADS, HIDDEN, WIDTH, WORDS, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = 3
SIZE = WIDTH // HEADS
TEXTS = tuple(" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 12)) for i in range(40))
NEURONS = (np.arange(0, 64, 2), np.arange(5, 37), np.arange(40))  # kept in each layer
HEAD_SETS = (np.array([0, 3]), np.array([1]), np.array([0, 1, 2]))
EVEN_NEURONS = (np.arange(0, 64, 2), np.arange(5, 37), np.arange(32))
CHANNELS = np.sort(np.random.default_rng(3).permutation(WIDTH)[:24])  # three heads wide
SAME_HEADS = np.array([0, 2, 3])
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """A loaded encoder of every architecture, three layers deep. Nobody may change it."""
    root = tmp_path_factory.mktemp("surgery")
    found = {}
    for architecture in ARCHITECTURES:
        folder = tiny_model(architecture, root / architecture, layers=LAYERS, lively=True)
        if architecture == "modernbert":  # a window that the texts do not fit into
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"local_attention": 6}))
        found[architecture] = SentenceTransformer(str(folder), device="cpu").eval()
    return found


def vectors(encoder: Any) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([sentence_vectors(encoder, b).numpy() for b in batches(encoder, TEXTS)])


def state(encoder: Any) -> dict[str, Any]:
    return {k: v.clone() for k, v in encoder.state_dict().items()}


def assert_same_state(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def masking(units: Sequence[Any], size: int) -> Callable[[int], Callable[..., Any]]:
    """A pre-hook for layer l that zeroes every input outside units[l]."""

    def of(layer: int) -> Callable[..., Any]:
        def hook(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            mask = torch.zeros(inputs[0].shape[-1] // size)
            mask[units[layer]] = 1.0
            return (inputs[0] * mask.repeat_interleave(size), *inputs[1:])

        return hook

    return of


def masked(encoder: Any, neurons: Sequence[Any] | None, heads: Sequence[Any] | None) -> np.ndarray:
    """Vectors of the dense encoder, whose units are zeroed by hooks."""
    view, hooks = Anatomy(encoder), list[Any]()
    for i in range(LAYERS):
        if neurons is not None:
            hooks.append((view.feed_forward(i).out, masking(neurons, 1)(i), True))
        if heads is not None:
            hooks.append((view.attention(i).out, masking(heads, SIZE)(i), True))
    with hooked(hooks):
        return vectors(encoder)


def head_sets(view: Anatomy) -> Sequence[Any]:
    """Other heads in every layer, but where a shared bias asks for the same."""
    return (SAME_HEADS,) * LAYERS if view.shared_heads else HEAD_SETS


def cut_all(encoder: Any, neurons: Sequence[Any] | None = None, heads: Sequence[Any] | None = None) -> Any:
    copy = duplicate(encoder)
    view = Anatomy(copy)
    for i in range(LAYERS):
        if neurons is not None:
            cut_neurons(view, i, neurons[i])
        if heads is not None and not view.shared_heads:
            cut_heads(view, i, heads[i])
    if heads is not None and view.shared_heads:
        cut_heads(view, None, heads[0])
    return copy


def narrowed(encoder: Any) -> Any:
    copy = duplicate(encoder)
    cut_heads(Anatomy(copy), None, SAME_HEADS)
    cut_width(Anatomy(copy), CHANNELS)
    return copy


def shorter(encoder: Any, kept: Sequence[int] = (0, 2)) -> Any:
    copy = duplicate(encoder)
    cut_layers(Anatomy(copy), kept)
    return copy


VERBS: Mapping[str, Callable[[Any], Any]] = {
    "neurons": lambda e: cut_all(e, EVEN_NEURONS),
    "uneven neurons": lambda e: cut_all(e, NEURONS),
    "heads": lambda e: cut_all(e, heads=head_sets(Anatomy(e))),
    "both": lambda e: cut_all(e, NEURONS, head_sets(Anatomy(e))),
    "layers": shorter,
    "first layer": lambda e: shorter(e, [0]),
    "width": narrowed,
}
every_verb = pytest.mark.parametrize("verb", VERBS)
SAVED = ("neurons", "both", "layers", "first layer", "width")  # "both" is written padded, as heads alone would be


# ---- slicing --------------------------------------------------------------------------------------------------


@every_architecture
def test_neurons_masked_is_sliced(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    wanted = masked(encoder, NEURONS, None)
    np.testing.assert_allclose(vectors(cut_all(encoder, NEURONS)), wanted, atol=2e-6)
    assert np.abs(wanted - vectors(encoder)).max() > 1e-2  # the mask does something


@every_architecture
def test_heads_masked_is_sliced(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    heads = head_sets(Anatomy(encoder))
    wanted = masked(encoder, None, heads)
    np.testing.assert_allclose(vectors(cut_all(encoder, heads=heads)), wanted, atol=2e-6)
    assert np.abs(wanted - vectors(encoder)).max() > 1e-2


@every_architecture
def test_neurons_and_heads_together(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    heads = head_sets(Anatomy(encoder))
    np.testing.assert_allclose(vectors(cut_all(encoder, NEURONS, heads)), masked(encoder, NEURONS, heads), atol=2e-6)


@every_architecture
def test_layers_are_skipped(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    for kept in ([0, 2], [0]):

        def skip(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]

        with hooked([(b, skip, False) for i, b in enumerate(Anatomy(encoder).layers) if i not in kept]):
            wanted = vectors(encoder)
        np.testing.assert_array_equal(vectors(shorter(encoder, kept)), wanted)
        assert np.abs(wanted - vectors(encoder)).max() > 1e-2


_ATTEND_ROWS = re.compile(r"\.(query|key|value|q_lin|k_lin|v_lin|q|k|v|Wqkv)\.")
_ATTEND_COLUMNS = re.compile(r"(attention\.output\.dense|out_lin|attn\.o|attn\.Wo)\.")
_UP = re.compile(r"(intermediate\.dense|ffn\.lin1|mlp\.Wi)\.")
_DOWN = re.compile(r"(?<!attention\.)(output\.dense|ffn\.lin2|mlp\.Wo)\.")


def by_hand(name: str, tensor: Any) -> Any:
    """A backbone's tensor with CHANNELS and SAME_HEADS only, by the name; the shape table is not asked."""
    attend = torch.as_tensor((SAME_HEADS[:, None] * SIZE + np.arange(SIZE)).ravel())
    channels = torch.as_tensor(CHANNELS)
    if "relative_attention_bias" in name:
        return tensor[:, torch.as_tensor(SAME_HEADS)]
    if _ATTEND_ROWS.search(name):
        parts = [part[attend] for part in tensor.split(WIDTH)]
        rows = torch.cat(parts)
        return rows[:, channels] if rows.dim() > 1 else rows
    if _ATTEND_COLUMNS.search(name) and tensor.dim() > 1:
        return tensor[channels][:, attend]
    if _UP.search(name):
        return tensor[:, channels] if tensor.dim() > 1 else tensor
    if _DOWN.search(name) or "embeddings_project" in name:
        return tensor[channels]
    if name.startswith("embeddings.") and tensor.shape[-1] != WIDTH:  # ELECTRA's, before the projection
        return tensor
    return tensor[channels][:, channels] if "pooler" in name and tensor.dim() > 1 else tensor[..., channels]


@every_architecture
def test_width_is_the_model_of_the_sliced_tensors(architecture: str, dense: Mapping[str, Any]) -> None:
    """Zeroed channels are something else: LayerNorm takes its mean and spread over those that are there."""
    from transformers import AutoModel

    source = dense[architecture][0].auto_model
    config = type(source.config)(**source.config.to_dict())
    config.hidden_size, config.num_attention_heads = len(CHANNELS), len(SAME_HEADS)
    reference = AutoModel.from_config(config).eval()
    reference.load_state_dict({k: by_hand(k, v) for k, v in source.state_dict().items()})
    cut = narrowed(dense[architecture])
    batch = batches(cut, TEXTS)[0]
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        np.testing.assert_array_equal(cut[0].auto_model(**inputs)[0], reference(**inputs)[0])
    assert vectors(cut).shape == (len(TEXTS), len(CHANNELS))


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_width_goes_on_behind_the_pooling(architecture: str, tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(tiny_model(architecture, tmp_path / "m", extras=True, lively=True)), device="cpu")
    copy = duplicate(encoder)
    cut_heads(Anatomy(copy), None, SAME_HEADS)
    cut_width(Anatomy(copy), CHANNELS)
    _, pooled, norm, dense_, *_ = copy
    assert norm.dimension == pooled.pooling_output_dimension == dense_.in_features == 24
    assert torch.equal(norm.norm.weight, encoder[2].norm.weight[CHANNELS])
    assert torch.equal(dense_.linear.weight, encoder[3].linear.weight[:, CHANNELS])
    assert vectors(copy).shape == (len(TEXTS), 16)
    copy.save(str(tmp_path / "out"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_array_equal(vectors(again), vectors(copy))


@every_architecture
def test_keeping_everything_changes_no_bit(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder, copy = dense[architecture], duplicate(dense[architecture])
    view, config = Anatomy(copy), dense[architecture][0].auto_model.config.to_dict()
    for layer in range(LAYERS):
        cut_neurons(view, layer, range(HIDDEN))
        if not view.shared_heads:
            cut_heads(view, layer, range(HEADS))
    cut_heads(view, None, range(HEADS))
    cut_layers(view, range(LAYERS))
    cut_width(view, range(WIDTH))
    assert_same_state(state(copy), state(encoder))
    assert view.config.to_dict() == config
    assert view.shape == Anatomy(encoder).shape
    np.testing.assert_array_equal(vectors(copy), vectors(encoder))


@every_architecture
def test_padding_adds_nothing_and_trimming_takes_it_off(architecture: str, dense: Mapping[str, Any]) -> None:
    cut = VERBS["both"](dense[architecture])
    view, before = Anatomy(cut), state(cut)
    shape, wanted = view.shape, vectors(cut)
    pad(view)
    assert not shape.even
    assert view.shape.even
    assert view.shape.heads == (HEADS,) * LAYERS
    assert view.shape.inner == (max(shape.inner),) * LAYERS
    np.testing.assert_allclose(vectors(cut), wanted, atol=1e-6)
    trim(view, shape.heads, shape.inner)
    assert view.shape == shape
    assert_same_state(state(cut), before)
    np.testing.assert_array_equal(vectors(cut), wanted)


# ---- declared sizes, files ------------------------------------------------------------------------------------


@every_verb
@every_architecture
def test_declared_sizes_are_true(architecture: str, verb: str, dense: Mapping[str, Any]) -> None:
    cut = VERBS[verb](dense[architecture])
    view = Anatomy(cut)
    for name, module in cut.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), name
            assert module.bias is None or module.bias.shape == (module.out_features,), name
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape == (module.num_embeddings, module.embedding_dim), name
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.shape == module.normalized_shape, name
    shape = view.shape
    for i, heads in enumerate(shape.heads):
        split = view.splitter(i)
        counts = {"num_attention_heads": heads, "n_heads": heads, "all_head_size": heads * SIZE, "layer_idx": i}
        counts |= {"dim": shape.width, "attention_head_size": SIZE, "head_dim": SIZE}
        there = {k: getattr(split, k) for k in counts if hasattr(split, k)}
        assert there == {k: counts[k] for k in there}
        assert {m.out_features // (heads * SIZE) for m in view.inputs(i)} <= {1, 3}
    declared = (view.config.num_hidden_layers, view.config.hidden_size, view.config.num_attention_heads)
    assert declared == (len(shape.heads), shape.width, shape.width // SIZE)
    inner = view.config.hidden_dim if architecture == "distilbert" else view.config.intermediate_size
    assert inner == max(shape.inner)
    assert cut[1].get_embedding_dimension() == cut.get_embedding_dimension() == shape.width
    assert vectors(cut).shape == (len(TEXTS), shape.width)


def test_shapes_are_the_ones_asked_for(dense: Mapping[str, Any]) -> None:
    for architecture, encoder in dense.items():
        same = architecture == "mpnet"
        heads = (3, 3, 3) if same else (2, 1, 3)
        found = {name: Anatomy(verb(encoder)).shape for name, verb in VERBS.items()}
        assert {n: (s.heads, s.inner, s.width, s.even) for n, s in found.items()} == {
            "neurons": ((4, 4, 4), (32, 32, 32), 32, True),
            "uneven neurons": ((4, 4, 4), (32, 32, 40), 32, False),
            "heads": (heads, (64, 64, 64), 32, False),
            "both": (heads, (32, 32, 40), 32, False),
            "layers": ((4, 4), (64, 64), 32, True),
            "first layer": ((4,), (64,), 32, True),
            "width": ((3, 3, 3), (64, 64, 64), 24, True),
        }
        assert all(s.parameters < Anatomy(encoder).shape.parameters for s in found.values())


_FRESH = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

folders, texts, out = json.load(open(sys.argv[1]))
found, info = {}, {}
for name, folder in folders.items():
    found[name] = SentenceTransformer(folder, device="cpu").encode(texts, show_progress_bar=False)
    loading = AutoModel.from_pretrained(folder, output_loading_info=True)[1]
    info[name] = {k: sorted(map(str, v)) for k, v in loading.items() if k.endswith(("_keys", "_msgs"))}
assert not [m for m in sys.modules if m == "core" or m.startswith("core.")]
np.savez(out, **found)
json.dump(info, open(out + ".json", "w"))
"""


@pytest.fixture(scope="module")
def reloaded(dense: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """(vectors before saving, vectors of plain sentence-transformers in a fresh process, what it said on loading)."""
    root = tmp_path_factory.mktemp("reload")
    folders, before = {}, {}
    for architecture, encoder in dense.items():
        for verb in SAVED:
            name = f"{architecture} {verb}"
            copy = VERBS[verb](encoder)
            before[name] = copy.encode(list(TEXTS), show_progress_bar=False)
            if not Anatomy(copy).shape.even:
                pad(Anatomy(copy))
            copy.save(str(root / name), create_model_card=False)
            folders[name] = str(root / name)
    (root / "fresh.py").write_text(_FRESH)
    (root / "request.json").write_text(json.dumps([folders, TEXTS, str(root / "out.npz")]))
    done = subprocess.run(
        [sys.executable, root / "fresh.py", root / "request.json"],
        cwd=root, env=dict(os.environ) | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return before, np.load(root / "out.npz"), json.loads((root / "out.npz.json").read_text())


@pytest.mark.parametrize("verb", SAVED)
@every_architecture
def test_a_plain_reload_gives_the_same_vectors(architecture: str, verb: str, reloaded: tuple[Any, Any, Any]) -> None:
    before, after, info = (x[f"{architecture} {verb}"] for x in reloaded)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys()
    assert [(k, v) for k, v in info.items() if v] == []
    np.testing.assert_allclose(after, before, atol=1e-6)


# ---- walking --------------------------------------------------------------------------------------------------


def first(passed: Any) -> Any:
    return passed[0] if isinstance(passed, tuple) else passed


def hidden_states(view: Anatomy, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """[layer][batch]: the output of every layer, seen by hooks while the model itself runs."""
    found: list[list[Any]] = [[] for _ in view.layers]

    def see(i: int) -> Callable[..., None]:
        return lambda _, __, output: found[i].append(first(output))

    with torch.no_grad(), hooked([(block, see(i), False) for i, block in enumerate(view.layers)]):
        for row in rows:
            sentence_vectors(view.encoder, row)
    return found


@every_architecture
def test_the_walker_goes_as_the_model_goes(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = VERBS["both"](dense[architecture])  # heads and neurons differ from layer to layer
    view, rows = Anatomy(encoder), batches(encoder, TEXTS)
    wanted, walker = hidden_states(view, rows), Walker.start(view, rows)
    for layer in range(LAYERS):
        assert walker.at == layer
        walker.step()
        for mine, its in zip(walker.hidden, wanted[layer], strict=True):
            assert torch.equal(mine, its)
    final = getattr(view.backbone, "final_norm", nn.Identity())
    for row, hidden in zip(rows, walker.hidden, strict=True):
        batch = {k: v for k, v in row.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            assert torch.equal(view.backbone(**batch)[0], final(hidden))
    assert not any("forward" in vars(block) for block in view.layers)


@every_architecture
def test_looking_sees_what_hooks_see(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    view, rows = Anatomy(encoder), batches(encoder, TEXTS)
    walker = Walker.start(view, rows)
    for layer in range(LAYERS):
        spots = [
            (view.attention(layer).out, "input"), (view.attention(layer).out, "output"), walker.sum_spot(False),
            (view.up(layer), "output"), (view.feed_forward(layer).out, "input"), walker.sum_spot(True),
        ]  # fmt: skip
        wanted: list[list[Any]] = [[] for _ in spots]

        def see(i: int, found: list[list[Any]]) -> Callable[..., None]:
            return lambda _, *passed: found[i].append(first(passed[-1]))

        with torch.no_grad(), hooked([(m, see(i, wanted), w == "input") for i, (m, w) in enumerate(spots)]):
            for row in rows:
                sentence_vectors(encoder, row)
        halted = walker.look(spots, whole=False)
        assert walker.ahead is None
        for seen in (halted, walker.look(spots)):
            flat = [[first(v) for v in one] for one in seen]
            assert all(torch.equal(a, b) for x, y in zip(flat, wanted, strict=True) for a, b in zip(x, y, strict=True))
        walker.step()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in encoder.modules())


@every_architecture
def test_sums_are_residual_and_output(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    walker = Walker.start(Anatomy(encoder), batches(encoder, TEXTS))
    before = walker.hidden
    out, total = walker.look([(walker.sublayer(False).out, "output"), walker.sum_spot(False)])
    for h, o, t in zip(before, out, total, strict=True):
        torch.testing.assert_close(t, h + o, atol=1e-6, rtol=0)


# ---- least squares --------------------------------------------------------------------------------------------


def sums(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of the rows, added in three parts."""
    found = Moments(x.shape[1], y.shape[1])
    for a, b in zip(np.array_split(x, 3), np.array_split(y, 3), strict=True):
        found.add(torch.from_numpy(a.astype(np.float32)), torch.from_numpy(b.astype(np.float32)))
    return found


def problem(p: int = 12, q: int = 4, n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated inputs with a mean, targets that are not quite linear in them, and weights from before."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) / np.sqrt(p) + rng.normal(size=p)
    weight = rng.normal(size=(p, q))
    return x, x @ weight + 0.3 * rng.normal(size=(n, q)) + 1.0, weight + 0.2 * rng.normal(size=(p, q))


@pytest.mark.parametrize("bias", [True, False])
def test_refit_is_ridge_regression_around_the_old_weights(bias: bool) -> None:
    x, y, old = problem()
    kept = np.array([0, 2, 3, 7, 11])
    moments = sums(x, y)
    weight, offset = refit(moments, old, kept, bias)
    second = np.cov(x.T, bias=True) if bias else x.T @ x / len(x)
    oracle = Ridge(alpha=len(x) * ridge(second), fit_intercept=bias).fit(x[:, kept], y - x[:, kept] @ old[kept])
    np.testing.assert_allclose(weight, oracle.coef_.T + old[kept], atol=1e-4)
    if bias:
        np.testing.assert_allclose(offset, oracle.intercept_, atol=1e-4)


def test_refit_without_damping_is_plain_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "ridge", lambda second: 0.0)
    x, y, old = problem()
    kept = np.arange(1, 12, 2)
    weight, offset = refit(sums(x, y), old, kept, True)
    oracle = LinearRegression().fit(x[:, kept], y)
    np.testing.assert_allclose(weight, oracle.coef_.T, atol=1e-4)
    np.testing.assert_allclose(offset, oracle.intercept_, atol=1e-4)


def test_with_too_few_tokens_the_weights_stay_near_the_old_ones() -> None:
    x, _, old = problem(n=3)
    weight, _ = refit(sums(x, x @ old), old, np.arange(12), True)
    np.testing.assert_allclose(weight, old, atol=1e-3)


def greedy(x: np.ndarray, y: np.ndarray, old: np.ndarray, keep: int, bias: bool, group: int) -> list[int]:
    """The order of removal by solving the damped problem from scratch for every candidate in every step."""
    moments = sums(x, y)
    xx, xy = moments.centred(bias)
    lam = ridge(xx)
    gram, cross = xx + lam * np.eye(len(xx)), xy + lam * old
    alive, order = list(range(len(xx) // group)), []
    while len(alive) > keep:
        costs = []
        for g in alive:
            left = np.concatenate([np.arange(h * group, (h + 1) * group) for h in alive if h != g])
            costs.append(-np.sum(cross[left] * np.linalg.solve(gram[np.ix_(left, left)], cross[left])))
        order.append(alive.pop(int(np.argmin(costs))))
    return order


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_elimination_is_the_greedy_search(seed: int, group: int, bias: bool) -> None:
    x, y, old = problem(p=15, seed=seed)
    gone = eliminate(sums(x, y), old, 2, bias, group)
    assert gone.tolist() == greedy(x, y, old, 2, bias, group)


def test_elimination_a_column_at_a_time_in_blocks_or_as_groups_of_one() -> None:
    x, y, old = problem(p=150, n=2000)
    xx, xy = sums(x, y).centred(True)
    lam = ridge(xx)
    inverse = np.linalg.inv(xx + lam * np.eye(150))
    weight = inverse @ (xy + lam * old)
    orders = [least_squares._single(inverse.copy(), weight.copy(), 5, lazy).tolist() for lazy in (1, 7, 64, 200)]
    orders.append(least_squares._grouped(inverse.copy(), weight.copy(), 5, 1).tolist())
    assert all(o == orders[0] for o in orders)
    assert len(set(orders[0])) == 145
    assert orders[0] == eliminate(sums(x, y), old, 5, True).tolist()


def test_elimination_spares_what_cannot_be_made_up_for() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    x[:, 3] = x[:, 1] + x[:, 2]  # any one of 1, 2, 3 can go for nothing
    weight = np.diag([3.0, 2.0, 2.0, 2.0, 0.0, 3.0])
    gone = eliminate(sums(x, x @ weight), weight, 4, True)
    assert gone[0] == 4
    assert gone[1] in (1, 2, 3)


def test_the_output_map_is_ridge_regression_towards_the_identity() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)) + 1.0
    for wide in (8, 11):
        y = x @ rng.normal(size=(8, wide)) + 0.1 * rng.normal(size=(300, wide))
        prior = np.eye(8) if wide == 8 else np.zeros((8, wide))
        weight, bias = output_map.fit(x, y)
        alpha = 300 * output_map._DAMP * np.trace(np.cov(x.T, bias=True)) / 8
        oracle = Ridge(alpha=alpha).fit(x, y - x @ prior)
        np.testing.assert_allclose(weight, oracle.coef_.T + prior, atol=1e-8)
        np.testing.assert_allclose(bias, oracle.intercept_, atol=1e-8)


# ---- rebuilding -----------------------------------------------------------------------------------------------


def keeping(units: Sequence[Any]) -> Callable[..., Any]:
    return lambda layer, moments, weight: units[layer]


def rebuilt(encoder: Any, cuts: Cuts, reconstruct: Any) -> Any:
    copy = duplicate(encoder)
    rebuild(Anatomy(copy), Anatomy(encoder), batches(encoder, TEXTS), cuts, reconstruct)
    return copy


@pytest.mark.parametrize("reconstruct", ["bias", "least-squares"])
@every_architecture
def test_where_nothing_is_cut_nothing_moves(architecture: str, reconstruct: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    found = rebuilt(encoder, Cuts(), reconstruct)
    np.testing.assert_allclose(vectors(found), vectors(encoder), atol=1e-4)
    same = rebuilt(encoder, Cuts(), "none")
    assert_same_state(state(same), state(encoder))


@every_architecture
def test_rebuilding_without_reconstruction_is_slicing(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    shared = Anatomy(encoder).shared_heads
    for sequential in (False, True):
        cuts = Cuts(keeping(NEURONS), None if shared else keeping(HEAD_SETS), sequential=sequential)
        wanted = cut_all(encoder, NEURONS, None if shared else HEAD_SETS)
        assert_same_state(state(rebuilt(encoder, cuts, "none")), state(wanted))


def token_sums(encoder: Any) -> list[Any]:
    """Residual sums of all sublayers over real tokens, flat: [(tokens, width)] in the order they pass."""
    view, rows = Anatomy(encoder), batches(encoder, TEXTS)
    walker, found = Walker.start(view, rows), []
    for _ in view.layers:
        for one in walker.look([walker.sum_spot(False), walker.sum_spot(True)]):
            flat = [first(v) for v in one]
            found.append(torch.cat([v[valid(row)] for v, row in zip(flat, rows, strict=True)]))
        walker.step()
    return found


@every_architecture
def test_bias_compensation_is_exact_on_means(architecture: str, dense: Mapping[str, Any]) -> None:
    encoder = dense[architecture]
    cuts = Cuts(keeping(NEURONS), None if Anatomy(encoder).shared_heads else keeping(HEAD_SETS))
    found = rebuilt(encoder, cuts, "bias")
    if Anatomy(encoder).attention(0).out.bias is None:  # nothing to compensate with
        assert_same_state(state(found), state(cut_all(encoder, NEURONS, HEAD_SETS)))
        return
    plain = token_sums(cut_all(encoder, NEURONS, cuts.heads and HEAD_SETS))
    for mine, its, cut in zip(token_sums(found), token_sums(encoder), plain, strict=True):
        torch.testing.assert_close(mine.mean(0), its.mean(0), atol=2e-5, rtol=0)
        if cuts.heads:
            assert (cut.mean(0) - its.mean(0)).abs().max() > 1e-2  # which is not so without it


@every_architecture
def test_least_squares_leaves_less_error_than_bias_and_bias_than_none(
    architecture: str, dense: Mapping[str, Any]
) -> None:
    """In the sums of every sublayer whose input has not yet moved, and in the end in the sentence vectors."""
    encoder = dense[architecture]
    cuts = Cuts(keeping(NEURONS), None if Anatomy(encoder).shared_heads else keeping(HEAD_SETS))
    models = {r: rebuilt(encoder, cuts, r) for r in ("none", "bias", "least-squares")}
    wanted, dense_sums = vectors(encoder), token_sums(encoder)
    cosine = {r: float((vectors(m) * wanted).sum(1).mean()) for r, m in models.items()}
    first = {r: float((token_sums(m)[0 if cuts.heads else 1] - dense_sums[0 if cuts.heads else 1]).square().mean())
             for r, m in models.items()}  # fmt: skip
    assert cosine["least-squares"] > cosine["none"]
    assert first["least-squares"] < first["bias"] <= first["none"]
