"""The HTTP side of the page: three addresses, and who may ask.

Any web site that a user visits can send requests to 127.0.0.1. So the server answers only if the request names this
machine (`Host`, against DNS rebinding), does not come from another page (`Origin`, `Sec-Fetch-Site`), and posts JSON.
It takes texts, never paths: what it may read was given on the command line.
"""

import base64
import hashlib
import json
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from tokenlayer.app.serve.cutting import LONGEST_BYTES, compare_languages, cut_text, labels
from tokenlayer.core.errors import BadOption, BadText, MissingExtra, TokenLayerError
from tokenlayer.models.tokenizer_files import LoadedTokenizer, load_tokenizer

HOST = "127.0.0.1"
LONGEST_BODY = 8 * LONGEST_BYTES
"""Bytes of a request: JSON may write a byte of text as `\\u00e4`."""


def make_app(tokenizers: Sequence[LoadedTokenizer], port: int) -> Any:
    """Builds the FastAPI application.

    Args:
        tokenizers: what is shown side by side.
        port: the port that a browser names in `Host` and `Origin`.

    Raises:
        MissingExtra: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request
        from fastapi.responses import HTMLResponse, JSONResponse, Response
    except ImportError as error:
        raise MissingExtra("fastapi", "serve", "the local page") from error

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    names = labels([one.where for one in tokenizers])
    page = files("tokenlayer.app.serve").joinpath("page.html").read_text(encoding="utf-8")
    headers = _headers(page)

    async def guard(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        why = refusal(request.method, dict(request.headers), port)
        answer = JSONResponse({"error": why}, status_code=403) if why else await follow(request)
        answer.headers.update(headers)
        return answer

    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    async def listed() -> JSONResponse:
        return JSONResponse([{"name": n, "tokens": len(t.vocab)} for n, t in zip(names, tokenizers, strict=True)])

    async def cut(request: Request) -> JSONResponse:
        return await _answered(request, lambda said: [cut_text(one, _text_of(said)) for one in tokenizers])

    async def compare(request: Request) -> JSONResponse:
        return await _answered(request, lambda said: compare_languages(tokenizers, _texts_of(said)))

    async def _answered(request: Request, work: Callable[[Any], Any]) -> JSONResponse:
        try:
            return JSONResponse(work(json.loads(await _body(request))))
        except TokenLayerError as error:
            return JSONResponse({"error": error.message, "hint": error.hint}, status_code=400)
        except ValueError as error:
            return JSONResponse({"error": f"the request is not JSON: {error}", "hint": ""}, status_code=400)

    app.middleware("http")(guard)
    app.add_api_route("/", index, methods=["GET"], response_model=None)
    app.add_api_route("/api/tokenizers", listed, methods=["GET"], response_model=None)
    app.add_api_route("/api/cut", cut, methods=["POST"], response_model=None)
    app.add_api_route("/api/compare", compare, methods=["POST"], response_model=None)
    return app


def refusal(method: str, headers: dict[str, str], port: int) -> str:
    """Why a request is refused, or an empty string.

    Args:
        method: of the request.
        headers: with lower-case names.
        port: of this server.
    """
    here = {f"{name}:{port}" for name in (HOST, "localhost")}
    if headers.get("host", "") not in here:
        return f"the request is for {headers.get('host', 'no host')!r}, expected {HOST}:{port}"
    origin = headers.get("origin")
    if origin is not None and origin not in {f"http://{one}" for one in here}:
        return f"the request comes from {origin!r}, another page"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "the request comes from another page"
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if method not in ("GET", "HEAD") and kind != "application/json":
        return f"the content type is {kind!r}, expected application/json"
    return ""


def open_socket(port: int) -> socket.socket:
    """Takes a port of this machine alone; 0 takes any free one.

    Raises:
        BadOption: the port is no port, or is taken.
    """
    if not 0 <= port <= 65_535:
        raise BadOption(f"port is {port}, expected 0 to 65535", hint="0 takes any free port")
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
    except OSError as error:
        taken.close()
        raise BadOption(
            f"port {port} of {HOST} cannot be had: {error.strerror}", hint="give another --port, or 0"
        ) from error
    return taken


def serve(paths: Sequence[str], *, port: int, ready: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Args:
        paths: tokenizers to show; all are read before the port opens.
        port: see `open_socket`.
        ready: called with the address once the port is taken.

    Raises:
        MissingExtra: FastAPI or uvicorn is not installed.
        BadTokenizer: a tokenizer cannot be read.
        BadOption: no tokenizer, or the port is taken.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "the local page") from error
    if not paths:
        raise BadOption("no tokenizer was given", hint="tokenlayer serve gpt2/tokenizer.json llama3/tokenizer.json")
    loaded = [load_tokenizer(path) for path in paths]
    for one in loaded:
        _ = one.vocab  # what cannot be shown is refused now
    with open_socket(port) as taken:
        port = taken.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(make_app(loaded, port), log_level="warning", access_log=False))
        ready(f"http://{HOST}:{port}/")
        server.run(sockets=[taken])


def _headers(page: str) -> dict[str, str]:
    """Only the page's own script and style run; nothing is fetched from elsewhere, no other page may frame it."""
    allowed = {}
    for tag in ("script", "style"):
        inner = re.search(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = hashlib.sha256(inner[1].encode() if inner else b"").digest()
        allowed[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    policy = f"default-src 'none'; connect-src 'self'; script-src {allowed['script']}; style-src {allowed['style']}"
    framed = "frame-ancestors 'none'"
    return {
        "content-security-policy": f"{policy}; img-src data:; base-uri 'none'; form-action 'none'; {framed}",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


async def _body(request: Any) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LONGEST_BODY:
            raise BadText(f"the request has more than {LONGEST_BODY} bytes", hint="paste a part of the text")
    return bytes(data)


def _text_of(said: Any) -> str:
    text = said.get("text") if isinstance(said, dict) else None
    if not isinstance(text, str):
        raise BadText("the request has no 'text'", hint='send {"text": "..."}')
    return text


def _texts_of(said: Any) -> list[tuple[str, str]]:
    texts = said.get("texts") if isinstance(said, dict) else None
    pairs: list[Any] = texts if isinstance(texts, list) else [None]
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) for s in p) for p in pairs):
        raise BadText("the request has no 'texts'", hint='send {"texts": [["en", "..."], ["de", "..."]]}')
    return [(p[0], p[1]) for p in pairs]
