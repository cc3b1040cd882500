"""A connection to Milvus that opens a local file or a cluster, says nothing, and names what went wrong.

`FILE.db` is a Milvus Lite database (a folder, served by threads of this process and locked against others while it
is open); `http://host:19530` is a server, whose token is read from MILVUS_TOKEN and nowhere else. Every failure of
the library or the server is an InputError of one line.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from core.errors import InputError
from core.types import Floats

TOKEN = "MILVUS_TOKEN"
CONNECT_SECONDS = 6  # for the first answer of a server
CALL_SECONDS = 120  # for one request; a server that restarts within it is waited for
LARGEST_PAGE = 16384  # rows: the most that a server hands out at once
PAGE_BYTES = 16 << 20  # of vectors in one answer or request: far below the 64 MiB that a server accepts

_open: Counter[str] = Counter()  # who uses a local file in this process
_lock = threading.Lock()


def is_local(uri: str) -> bool:
    return not uri.startswith(("http://", "https://"))


def library() -> Any:
    """pymilvus, imported without reading `.env` files and with its own logging silenced.

    Left alone, it loads the nearest `.env` into the environment and prints a traceback for every refused request.
    """
    if "pymilvus" in sys.modules:
        return sys.modules["pymilvus"]
    before = os.environ.get("PYTHON_DOTENV_DISABLED")
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import pymilvus
    finally:
        if before is None:
            del os.environ["PYTHON_DOTENV_DISABLED"]
        else:
            os.environ["PYTHON_DOTENV_DISABLED"] = before
    for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer", "milvus_lite", "grpc"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return pymilvus


@contextmanager
def connect(uri: str, *, create: bool = False) -> Iterator[Any]:
    """A MilvusClient for the block; a local file is closed, and free for other processes, when its last user is done.

    InputError where the file or server cannot be opened, and for whatever Milvus refuses within the block.
    """
    milvus, grpc = library(), import_module("grpc")
    if is_local(uri):
        _check_file(uri, create)
    client = None
    try:
        client = _client(milvus, uri)
        yield client
    except (milvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as e:
        raise _refusal(e, uri) from None  # the cause's text may repeat what was sent
    finally:
        _close(client, uri)


def _client(milvus: Any, uri: str) -> Any:
    if not is_local(uri):
        return milvus.MilvusClient(uri, token=os.environ.get(TOKEN, ""), timeout=CONNECT_SECONDS)
    path = os.path.abspath(uri)
    with _lock:
        direct = {"grpc.enable_http_proxy": 0}  # a proxy in the environment is not for a local file
        _open[path] += 1
        return milvus.MilvusClient(path, timeout=CONNECT_SECONDS, grpc_options=direct)


def _close(client: Any, uri: str) -> None:
    """Let go of what `_client` opened, or half opened."""
    if not is_local(uri):
        if client is not None:
            client.close()
        return
    from milvus_lite import server_manager_instance

    path = os.path.abspath(uri)
    with _lock:
        if client is not None:
            client.close()
        _open[path] -= 1
        if not _open[path]:
            server_manager_instance.release_server(path)


def _check_file(uri: str, create: bool) -> None:
    path = Path(uri)
    if path.is_file():
        raise InputError(
            f"{uri} is a file, and a Milvus Lite database is a folder since version 3; "
            "export it with the version that wrote it, or name another file."
        )
    if path.is_dir():
        if any(path.iterdir()) and not (path / "collections").is_dir():
            raise InputError(f"{uri} is a folder, but no Milvus Lite database; name another file.")
    elif not create:
        raise InputError(f"there is no file {uri}; check the path, or start the server's name with http://.")
    elif not path.absolute().parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to write {path.name} to; create it first.")


def _refusal(error: Exception, uri: str) -> InputError:
    """One line for what the library or the server said; it never holds the token."""
    said = _said(error)
    if "Open local milvus failed" in said:
        return InputError(_why_not_opened(uri))
    given = [getattr(e, "code", None) for e in (error, error.__cause__, error.__context__)]
    codes = {str(code()) for code in given if callable(code)}
    if any("UNAUTHENTICATED" in c or "PERMISSION_DENIED" in c for c in codes) or "auth check failure" in said:
        state = "was refused" if os.environ.get(TOKEN) else "is not set"
        return InputError(f"{uri} wants a token, and {TOKEN} {state}; set it in the environment and try again.")
    if any("UNAVAILABLE" in c or "DEADLINE" in c for c in codes) or "Fail connecting" in said or "timeout" in said:
        return InputError(
            f"no Milvus answers at {uri}; check that it runs and that host and port are right (19530 by default), "
            "then run the same again: it continues where it was."
        )
    if "index not found" in said:
        return InputError(f"Milvus loads no collection without an index ({said}); build an index on it first.")
    return InputError(f"Milvus at {uri} refused: {said}. Correct it and run the same again.")


def _said(error: Exception) -> str:
    details = getattr(error, "details", None)
    text = str(getattr(error, "message", "") or (details() if callable(details) else "") or error)
    text = text.replace(os.environ.get(TOKEN) or "\0", "***")
    return " ".join(text.split())[:200].rstrip(". ")


def _why_not_opened(path: str) -> str:
    """The library only logs why a local file did not open: try again and hear the reason."""
    from milvus_lite import DataDirLockedError, MilvusLite

    try:
        MilvusLite(os.path.abspath(path)).close()
    except DataDirLockedError:
        return f"{path} is open in another process (a notebook, another run); close it there and try again."
    except OSError as e:
        return f"cannot open {path}: {e.strerror}. Choose a folder you may write to."
    return f"{path} did not open; try again."


@contextmanager
def loaded(client: Any, uri: str, collection: str) -> Iterator[None]:
    """The collection is in memory for the block, and afterwards as it was (a local file's when it is closed)."""
    was = "NotLoad" not in str(client.get_load_state(collection, timeout=CONNECT_SECONDS)["state"])
    if not was:
        client.load_collection(collection, timeout=CALL_SECONDS)
    try:
        yield
    finally:
        if not was and not is_local(uri):
            client.release_collection(collection, timeout=CALL_SECONDS)


def count(client: Any, collection: str) -> int:
    """Rows, strongly consistent."""
    found = client.query(
        collection, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=CALL_SECONDS
    )
    return int(found[0]["count(*)"])


def literal(value: str | int) -> str:
    """A primary key as it is written in a filter, whatever characters it holds."""
    if isinstance(value, int):
        return str(value)
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


def among(field: str, values: Iterable[str | int]) -> str:
    """The filter that lets through these primary keys."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def as_vectors(values: list[Any], kind: str) -> Floats:
    """What Milvus returns for a vector field, n values -> (n, d) float32; half precisions come as bytes."""
    if kind == "FLOAT_VECTOR":
        return np.asarray(values, np.float32)
    raw = b"".join(v[0] if isinstance(v, list) else v for v in values)
    if kind == "FLOAT16_VECTOR":
        return np.frombuffer(raw, np.float16).astype(np.float32).reshape(len(values), -1)
    high = np.frombuffer(raw, np.uint16).astype(np.uint32) << 16  # bfloat16 is the upper half of a float32
    return high.view(np.float32).reshape(len(values), -1)


def address_problem(uri: str) -> str:
    """What is wrong with a server's address, or nothing; what it holds is not repeated where it may be a secret."""
    if "@" in uri:
        return f"a server's address must hold no user or password; set {TOKEN}=user:password in the environment."
    try:
        parts = urlsplit(uri)
        if not parts.hostname or parts.query:
            return f"{uri.split('?')[0]} is no server's address; write http://host:19530."
        _ = parts.port
    except ValueError:
        return "the server's port is no number from 0 to 65535; write http://host:19530."
    return ""
