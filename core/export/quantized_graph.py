"""Turn an fp32 ONNX graph into int8: linear layers with static activation ranges, tables row by row.

    sites = linear_sites(model)                   inputs that linear layers read, with the layers' weights
    seen = observe(model, feeds, sites)           ranges and a sample of rows of each
    plan = [choose(site, seen[site.source]) ...]  smoothing and range of each input, by least output error
    rewrite(model, plan, floating)                the same model object, now with int8 tensors

Activations are unsigned and asymmetric with one static range a tensor, weights signed and symmetric with one scale
an output, table rows signed with one scale a row. Every text meets the same ranges, so its vector does not depend on
its batch. SmoothQuant (Xiao et al. 2023, eq. 4) moves outlier channels into the weights: s_j = max|X_j|^a /
max|W_j|^(1-a), a multiplication before the layer, since post-norm encoders also add the normed stream to itself.
The mean error that is left is taken back in the biases (Nagel et al. 2019, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.types import Floats

ALPHAS = (None, 0.4, 0.5, 0.6, 0.7, 0.8)
ROWS = 512  # tokens of the sample that output errors are measured on
_OFFSET = 2  # RoBERTa's positions begin behind its padding index
_NARROW = 16  # a table with shorter rows is no table of vectors (a bias per head)


@dataclass(frozen=True)
class Site:
    """One tensor that linear layers read: its name, the layers' nodes and weights (in, out)."""

    source: str
    nodes: tuple[str, ...]
    weights: tuple[Floats, ...]


@dataclass(eq=False)
class Seen:
    """What calibration saw of a tensor: smallest and largest value of each channel, and a sample of rows."""

    low: Floats
    high: Floats
    rows: list[Floats] = field(default_factory=list)

    @property
    def sample(self) -> Floats:
        x = np.concatenate(self.rows)
        return np.asarray(x[np.linspace(0, len(x) - 1, min(ROWS, len(x))).astype(int)])


@dataclass(frozen=True, eq=False)
class Choice:
    """How one site is quantized: divide by `smooth`, then round to `scale` with `zero`.

    error    squared error of the layers' outputs on the sample, as a share of the outputs' own size
    shifts   mean error of every output, one array a layer: what its bias takes back
    """

    site: Site
    alpha: float | None
    smooth: Floats | None
    scale: np.float32
    zero: np.uint8
    error: float
    shifts: tuple[Floats, ...]


def _initializers(model: Any) -> dict[str, Any]:
    return {i.name: i for i in model.graph.initializer}


def _matrix(tensor: Any) -> bool:
    return tensor is not None and tensor.data_type == 1 and len(tensor.dims) == 2  # 1: float


def linear_sites(model: Any) -> list[Site]:
    """Every tensor that a product with a constant matrix reads, in the order of the graph."""
    from onnx import numpy_helper

    known, readers = _initializers(model), dict[str, list[Any]]()
    for node in model.graph.node:
        if node.op_type == "MatMul" and _matrix(known.get(node.input[1])):
            readers.setdefault(node.input[0], []).append(node)
    return [
        Site(
            source,
            tuple(n.output[0] for n in nodes),
            tuple(numpy_helper.to_array(known[n.input[1]]) for n in nodes),
        )
        for source, nodes in readers.items()
    ]


def observe(model: Any, feeds: Iterable[Mapping[str, Any]], sites: Sequence[Site]) -> dict[str, Seen]:
    """Run the fp32 graph and look at the sites; padding is left out."""
    import onnx
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [s.source for s in sites if s.source not in {i.name for i in model.graph.input}]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    rng, seen = np.random.default_rng(0), dict[str, Seen]()
    for feed in feeds:
        mask = feed["attention_mask"].astype(bool)
        rows = np.sort(rng.permutation(int(mask.sum()))[:64])
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            x = value[mask] if value.shape[:2] == mask.shape else value.reshape(-1, value.shape[-1])
            one = seen.setdefault(name, Seen(x.min(axis=0), x.max(axis=0)))
            one.low, one.high = np.minimum(one.low, x.min(axis=0)), np.maximum(one.high, x.max(axis=0))
            one.rows.append(x[rows[rows < len(x)]])
    return seen


def symmetric(weight: Floats, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Signed codes and scales, one scale for each index along `axis`."""
    over = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=over, keepdims=True) / 127, 1e-12).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale.reshape(-1)


def asymmetric(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of 256 steps that cover the range and hold 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-12)
    return np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _rounded(x: Floats, scale: np.float32, zero: np.uint8) -> Floats:
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale, np.float32)


def choose(site: Site, seen: Seen, alphas: Sequence[float | None] = ALPHAS) -> Choice:
    """The smoothing with the least error in the layers' outputs on the sample. Cost: 2 products an alpha."""
    x = seen.sample
    wanted = [x @ w for w in site.weights]
    size = sum(float(np.square(y).sum()) for y in wanted) or 1.0
    best: Choice | None = None
    for alpha in alphas:
        smooth = None if alpha is None else smoothing(site, seen, alpha)
        s = np.ones(x.shape[1], np.float32) if smooth is None else smooth
        scale, zero = asymmetric(float((seen.low / s).min()), float((seen.high / s).max()))
        given = _rounded(x / s, scale, zero)
        apart = [y - _product(given, w * s[:, None]) for w, y in zip(site.weights, wanted, strict=True)]
        error = sum(float(np.square(d).sum()) for d in apart) / size
        if best is None or error < best.error:
            best = Choice(site, alpha, smooth, scale, zero, error, tuple(d.mean(axis=0) for d in apart))
    assert best is not None
    return best


def _product(x: Floats, weight: Floats) -> Floats:
    codes, scales = symmetric(weight, 1)
    return np.asarray(x @ (codes * scales), np.float32)


def smoothing(site: Site, seen: Seen, alpha: float) -> Floats:
    """s_j = max|X_j|^a / max|W_j|^(1-a) over all layers that read the tensor (SmoothQuant, eq. 4)."""
    x = np.maximum(np.maximum(np.abs(seen.low), np.abs(seen.high)), 1e-5)
    w = np.maximum(np.max([np.abs(w).max(axis=1) for w in site.weights], axis=0), 1e-5)
    return np.asarray(np.maximum(x**alpha / w ** (1 - alpha), 1e-4), np.float32)


# ---- rewriting ------------------------------------------------------------------------------------------------


class _Writer:
    """Collects new nodes and tensors; `before` are the nodes to put in front of an old one."""

    def __init__(self, model: Any) -> None:
        from onnx import helper, numpy_helper

        self.graph, self.known, self.count = model.graph, _initializers(model), 0
        self.make, self.array, self.pack = helper.make_node, numpy_helper.to_array, numpy_helper.from_array
        self.before: dict[str, list[Any]] = {}

    def tensor(self, name: str, value: NDArray[Any]) -> str:
        self.graph.initializer.append(self.pack(value, name))
        return name

    def name(self, kind: str) -> str:
        self.count += 1
        return f"int8_{kind}_{self.count}"

    def weight(self, value: Floats, axis: int, at: list[Any]) -> str:
        """A matrix as codes with one scale for each index along `axis`; the name of what reads as the matrix."""
        codes, scales = symmetric(value, axis)
        name = self.name("weight")
        inputs = [self.tensor(f"{name}_codes", codes), self.tensor(f"{name}_scale", scales)]
        at.append(self.make("DequantizeLinear", inputs, [name], name, axis=axis))
        return name

    def shift_bias(self, output: str, shift: Floats) -> None:
        """Add to the bias behind a product, where there is one."""
        readers = [n for n in self.graph.node if output in n.input]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return
        for i, name in enumerate(readers[0].input):
            if name in self.known and list(self.known[name].dims) == [len(shift)]:
                readers[0].input[i] = self.tensor(self.name("bias"), self.array(self.known[name]) + shift)

    def finish(self) -> None:
        """Put the new nodes into place and drop the tensors that nothing reads any more."""
        nodes = [new for old in self.graph.node for new in (*self.before.get(old.output[0], ()), old)]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [t for t in self.graph.initializer if t.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def rewrite(model: Any, choices: Sequence[Choice], floating: Sequence[str] = (), length: int | None = None) -> None:
    """Quantize the graph in place: the chosen sites, the matrices behind pooling (weights only), and the tables.

    floating    sites whose activations stay fp32; their weights are stored as int8 all the same
    length      tokens of the longest text the tokenizer lets through: positions beyond it are not stored
    """
    writer = _Writer(model)
    nodes = {n.output[0]: n for n in model.graph.node}
    for choice in choices:
        _linear(writer, [nodes[n] for n in choice.site.nodes], choice, choice.site.source in floating)
    for node in list(model.graph.node):
        if node.op_type == "Gemm" and _matrix(writer.known.get(node.input[1])):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            value = writer.array(writer.known[node.input[1]])
            node.input[1] = writer.weight(value, 0 if transposed else 1, writer.before.setdefault(node.output[0], []))
        if node.op_type == "Gather" and _matrix(writer.known.get(node.input[0])):
            _table(writer, node, length)
    writer.finish()
    _shorten(model.graph)


def _shorten(graph: Any) -> None:
    """Give everything inside the graph a short name: the traced ones take more bytes than all biases."""
    known = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = known.setdefault(name, f"t{len(known)}")
    for tensor in graph.initializer:
        tensor.name = known[tensor.name]


def _linear(writer: _Writer, nodes: Sequence[Any], choice: Choice, floating: bool) -> None:
    """x -> (x * 1/s) -> codes -> read by every layer of the site, whose weights carry s."""
    at = writer.before.setdefault(nodes[0].output[0], [])
    source, smooth = choice.site.source, None if floating else choice.smooth
    if smooth is not None:
        name = writer.name("smooth")
        at.append(writer.make("Mul", [source, writer.tensor(f"{name}_factor", 1 / smooth)], [name], name))
        source = name
    if not floating:
        name = writer.name("codes")
        scale = [writer.tensor(f"{name}_{k}", np.array(v)) for k, v in (("scale", choice.scale), ("zero", choice.zero))]
        at.append(writer.make("QuantizeLinear", [source, *scale], [f"{name}_u8"], name))
        at.append(writer.make("DequantizeLinear", [f"{name}_u8", *scale], [name], f"{name}_back"))
        source = name
    for node, weight, shift in zip(nodes, choice.site.weights, choice.shifts, strict=True):
        value = weight if smooth is None else weight * smooth[:, None]
        node.input[0] = source
        node.input[1] = writer.weight(value, 1, writer.before.setdefault(node.output[0], []))
        if not floating:
            writer.shift_bias(node.output[0], shift)


def _table(writer: _Writer, node: Any, length: int | None) -> None:
    """Rows are looked up as codes and multiplied by their scale: the table itself is never spread out."""
    value = writer.array(writer.known[node.input[0]])
    if value.shape[1] < _NARROW:
        return
    if length and node.input[0].endswith("position_embeddings.weight"):
        value = value[: length + _OFFSET]
    codes, scales = symmetric(value, 0)
    name, at = writer.name("table"), writer.before.setdefault(node.output[0], [])
    table, factor = writer.tensor(f"{name}_codes", codes), writer.tensor(f"{name}_scale", scales.reshape(-1, 1))
    at.append(writer.make("Gather", [table, node.input[1]], [f"{name}_rows"], f"{name}_rows"))
    at.append(writer.make("Cast", [f"{name}_rows"], [f"{name}_float"], f"{name}_float", to=1))
    at.append(writer.make("Gather", [factor, node.input[1]], [f"{name}_factors"], f"{name}_factors"))
    replaced = writer.make("Mul", [f"{name}_float", f"{name}_factors"], list(node.output), node.name)
    node.CopyFrom(replaced)
