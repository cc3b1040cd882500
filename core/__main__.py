"""The command line: everything the browser does, through the same core. `python -m core --help` explains itself."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from core.errors import Cancelled, EspalierError, InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see `{self.prog} --help`)")


def _add(commands: Any, name: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else there")
    parser.add_argument("--cache", metavar="DIR", help="Espalier's folder (default: ESPALIER_HOME or the user's cache)")
    parser.add_argument("--job", metavar="DIR", help=argparse.SUPPRESS)
    return parser


def _inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="minilm", metavar="M", help="minilm, a folder, a zip or a hub id")
    parser.add_argument(
        "--data", action="append", metavar="D", required=True, help="sample, python-docs, a folder or file; may repeat"
    )
    parser.add_argument(
        "--fit-on", action="append", default=[], metavar="D", help="what methods learn from (texts only); may repeat"
    )
    parser.add_argument("--queries", metavar="FILE", help="a log of real queries for texts without judgements")
    parser.add_argument(
        "--metric", choices=("cosine", "dot", "l2"), help="how vectors without a model are compared (default: cosine)"
    )
    parser.add_argument("--split", default="test", help="which judgements of a BEIR folder (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="a seeded sample of N documents, stated in the answer")
    parser.add_argument("--seed", type=_seed, default=0)


def _seed(text: str) -> int:
    """A whole number from 0 on."""
    try:
        value = int(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give 0 or a positive one") from e
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0; give 0 or a positive whole number")
    return value


FORMATS = ("sentence-transformers", "sentence-transformers-fp16", "onnx", "onnx-int8", "vectors")  # as in exporting.py


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", default="exact", choices=("exact", "fast", "bf16", "int8"),
        help="what embeds: torch in fp32 (default), or the fastest library in fp32, down to bf16, down to int8",
    )  # fmt: skip


def _vectors(commands: Any) -> None:
    """`vectors prune`, `vectors collections`: no model is needed."""
    about = "vectors without a model (npy, npz, Parquet, word2vec/GloVe, safetensors, Milvus)"
    inner = commands.add_parser("vectors", help=about, description=about).add_subparsers(
        dest="vectors", required=True, parser_class=_Parser, metavar="COMMAND"
    )
    prune = _add(inner, "prune", "apply a plan to vectors, judge it, write what stays")
    where = "a vector file, FILE.db#collection or http://host:19530#collection (its token: MILVUS_TOKEN)"
    prune.add_argument("--in", dest="source", required=True, metavar="FILE", help=where)
    prune.add_argument(
        "--plan", required=True, metavar="P", help="e.g. 'dimensions/svd keep=96 | vectors/coverage ...'"
    )
    prune.add_argument("--out", metavar="FILE", help="the same kinds; the suffix says the format; without it: figures")
    prune.add_argument("--queries", metavar="FILE", help="query vectors; without it a seeded fifth of the rows asks")
    prune.add_argument(
        "--judge", action="append", default=[], metavar="FILE", help="a word-similarity set about the ids; may repeat"
    )
    prune.add_argument("--metric", choices=("cosine", "dot", "l2"), help="default: the collection's own, else cosine")
    prune.add_argument("--column", metavar="NAME", help="which Parquet column or array holds the vectors")
    prune.add_argument("--dtype", default="float32", choices=("float32", "float16"), help="of the file written")
    prune.add_argument("--alias", metavar="NAME", help="the Milvus alias that will name the new collection")
    prune.add_argument("--limit", type=int, metavar="N", help="fit and judge on a seeded sample of N rows")
    prune.add_argument("--rescore", type=int, default=0, metavar="N", help="two-stage figures: shortlist N, rescore")
    prune.add_argument("--seed", type=_seed, default=0)
    copy = _add(inner, "copy", "the same vectors in another format, bit for bit")
    copy.add_argument("--in", dest="source", required=True, metavar="FILE", help=where)
    copy.add_argument("--out", required=True, metavar="FILE", help="its suffix says the format")
    copy.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    copy.add_argument("--column", metavar="NAME", help="which Parquet column or array holds the vectors")
    pair = _add(inner, "compare", "two Milvus collections searched side by side: latency, recall, bytes")
    pair.add_argument("--in", dest="source", required=True, metavar="FULL", help="FILE.db#collection or http://...")
    pair.add_argument("--with", dest="pruned", required=True, metavar="PRUNED", help="the pruned one, or its alias")
    pair.add_argument("--projection", metavar="FILE", help="what queries are multiplied with for the pruned one")
    pair.add_argument("--groups", metavar="FILE", help="groups.json: a hit on a survivor counts for its group")
    pair.add_argument("--queries", metavar="FILE", help="query vectors; without it 100 seeded rows ask")
    pair.add_argument("--index", default="", metavar="A,B", help="index types to try on copies, e.g. FLAT,HNSW")
    pair.add_argument("--rescore", type=int, default=0, metavar="N", help="two-stage search: shortlist N, rescore")
    pair.add_argument("--k", type=int, default=10)
    pair.add_argument("--seed", type=_seed, default=0)
    users = _add(inner, "recommend", "factorise interactions, remove dimensions round by round, write the best table")
    users.add_argument("--in", dest="source", required=True, metavar="FILE", help="u.data, or a CSV with user and item")
    users.add_argument("--dimensions", type=int, default=64, metavar="N", help="to begin with (default: 64)")
    users.add_argument("--users", metavar="FILE", help="your own vectors of users, with ids, instead of factorising")
    users.add_argument("--items", metavar="FILE", help="your own vectors of items, with ids")
    users.add_argument("--out", metavar="DIR", help="where users.parquet and items.parquet go")
    users.add_argument("--seed", type=_seed, default=0)
    seen = _add(inner, "collections", "what a Milvus file or server holds")
    seen.add_argument("--in", dest="source", required=True, metavar="URI", help="FILE.db or http://host:19530")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m core", description="Espalier: prune embeddings, see what it costs, take it away.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")
    _add(commands, "methods", "every method's card")
    evaluate = _add(commands, "evaluate", "quality, size and speed of one encoder")
    _inputs(evaluate)
    _engine(evaluate)
    prune = _add(commands, "prune", "apply a plan, judge it, export it")
    _inputs(prune)
    _engine(prune)
    prune.add_argument("--plan", required=True, metavar="P", help="e.g. 'dimensions/svd keep=128'")
    prune.add_argument("--out", metavar="DIR", help="where the export goes; without it nothing is written")
    prune.add_argument("--format", default="sentence-transformers", choices=FORMATS)
    prune.add_argument(
        "--draws", type=int, default=5, metavar="N", help="random prunings that an encoder cut is held against"
    )
    prune.add_argument("--zip", action="store_true", help="also write DIR-<hash>.zip beside it")
    prune.add_argument(
        "--rescore", type=int, default=0, metavar="N", help="add two-stage figures: shortlist N, rescore"
    )
    sweep = _add(commands, "sweep", "the whole curve of a method, with the random baseline")
    _inputs(sweep)
    sweep.add_argument("--method", required=True, metavar="NAME", help="e.g. dimensions/svd, with options if wanted")
    sweep.add_argument("--ratios", metavar="0,0.1,...", help="pruning ratios in [0, 1) (default: 0, 1/24, ... 23/24)")
    sensitive = _add(commands, "sensitivity", "importance of every unit, each layer cut alone, the ratio for a budget")
    _inputs(sensitive)
    sensitive.add_argument("--target", required=True, metavar="T", help="heads, neurons, layers, width, tokens, ...")
    sensitive.add_argument("--criterion", metavar="C", help="e.g. obs (default: one that suits the target)")
    sensitive.add_argument("--keep-quality", type=float, default=0.98, metavar="Q", help="the budget (default: 0.98)")
    sensitive.add_argument("--ratios", metavar="0.25,0.5,...", help="ratios to measure (default: 0.25,0.5,0.75)")
    sensitive.add_argument("--sample", type=int, default=128, metavar="N", help="documents measured on (default: 128)")
    sweep.add_argument(
        "--draws", type=int, default=2, metavar="N", help="random prunings at each ratio of an encoder cut"
    )
    run = _add(commands, "run", "replay a saved session")
    run.add_argument("recipe", metavar="RECIPE.yaml")
    run.add_argument("--out", metavar="DIR")
    maps = _add(commands, "map", "UMAP before and after a cut, aligned, with its noise floor")
    _inputs(maps)
    maps.add_argument("--plan", required=True, metavar="P")
    embed = _add(commands, "embed", "embed a data set into the cache")
    _inputs(embed)
    study = _add(commands, "study", "every ratio of a method, kept for the app")
    _inputs(study)
    study.add_argument("--method", required=True, metavar="NAME")
    _vectors(commands)
    _add(commands, "warm", "prepare the app's first screen")
    return parser


class _Ended(KeyboardInterrupt):
    """SIGTERM: what was begun is cleared away as after Ctrl-C."""


def _end(number: int, frame: object) -> NoReturn:
    raise _Ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 on success, 2 on bad input, 1 on a fault of ours."""
    as_json = "--json" in (argv if argv is not None else sys.argv[1:])
    try:
        args = build_parser().parse_args(argv)
        from core import arguments, commands

        arguments.check(args)
        if args.cache:
            os.environ["ESPALIER_HOME"] = str(Path(args.cache).expanduser().resolve())
        os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
        answer = commands.run(args)
    except (InputError, Cancelled) as e:
        return _fail(str(e) or "cancelled", 2)
    except EspalierError as e:
        return _fail(str(e), 1)
    except _Ended:
        return _fail("ended by SIGTERM", 143)
    except KeyboardInterrupt:
        return _fail("cancelled", 130)
    except MemoryError:
        return _fail("out of memory: use --limit, or a machine with more", 1)
    try:
        _show(args.command, answer, as_json)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _show(command: str, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
        return
    from core.wording import words

    print(words(command, answer))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
