"""The REST interface: a picture in, its faces as JSON out."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, create_model
from starlette.datastructures import UploadFile

from faceflax import html
from faceflax.app.answers import analyze_picture, as_json, too_large
from faceflax.app.limits import Limits
from faceflax.errors import FaceflaxError
from faceflax.faces.face import FACE_COLUMNS

if TYPE_CHECKING:  # only annotations need it
    from faceflax.app.answers import Analyzer

_FIELDS: dict[str, Any] = {name: (kind | None, ...) for name, kind in FACE_COLUMNS.items()}

FaceAnswer: type[BaseModel] = create_model("Face", face=(int, ...), **_FIELDS)
"""A face of an answer; docs/tables.md says what each field means."""


class Answer(BaseModel):
    """What is in a picture."""

    version: int = Field(alias="schema", description="version of the fields")
    width: int = Field(description="of the picture, upright, in pixels")
    height: int
    seconds: float = Field(description="how long reading and analysing took")
    faces: Sequence[FaceAnswer]  # type: ignore[valid-type]


class Health(BaseModel):
    """That the server is there."""

    status: str
    version: str


_BODY = {
    "requestBody": {
        "required": True,
        "description": "a picture of any common format: its bytes, or a form with a file",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            },
        },
    }
}

_PAGE = """<p>What networks perceived in images of faces. It is no evidence of what a person feels or is.
<a href="openapi.json">openapi.json</a> describes all of this for programs; <a href="./">the page</a> is for people.</p>
{% for path, methods in paths.items() %}{% for method, what in methods.items() %}
<h2>{{ method | upper }} {{ path }}</h2>
<p>{{ what.summary }}. {{ what.description }}</p>
{% if "requestBody" in what %}<p>Body: {{ what.requestBody.description }}
({{ what.requestBody.content | join(", ") }}).</p>{% endif %}
<ul>{% for status, answer in what.responses.items() %}<li>{{ status }}: {{ answer.description }}</li>{% endfor %}</ul>
{% endfor %}{% endfor %}
<h2>The answer of analyze</h2>
<p>Fields of the picture: {{ picture | join(", ") }}. Fields of each face: {{ face | join(", ") }}.</p>
<pre>curl --data-binary @people.jpg -H 'Content-Type: image/jpeg' {{ address }}v1/analyze</pre>"""


def make_api(analyzer: Analyzer, limits: Limits, version: str) -> FastAPI:
    """Makes the application with ``POST /v1/analyze``, ``GET /healthz`` and, about both, ``GET /docs``.

    Args:
        analyzer: any number of threads must be able to use it, as ``faceflax.FaceAnalyzer()``.
        limits: what is too much.
        version: what ``/healthz`` says.
    """
    api = FastAPI(title="faceflax", version=version, docs_url=None, redoc_url=None)
    at_once = functools.cache(lambda: anyio.CapacityLimiter(max(2, os.cpu_count() or 1)))
    errors = {400: "it is not a picture", 408: "it took too long to arrive", 413: "it is too large"}

    @api.post(
        "/v1/analyze",
        response_model=Answer,
        responses={status: {"description": text} for status, text in errors.items()},
        summary="Find the faces of a picture",
        openapi_extra=_BODY,
    )
    async def analyze(request: Request) -> dict[str, Any]:
        """Answers with each face's box, landmarks, perceived emotion and perceived gender; nothing is kept."""
        try:
            async with asyncio.timeout(limits.upload_seconds):
                content, name = await _content(request, limits)
        except TimeoutError:
            said = f"picture: it took more than {limits.upload_seconds:g} seconds to arrive; reduce it"
            raise HTTPException(408, said) from None
        try:
            work = functools.partial(analyze_picture, content, name, analyzer, limits)
            return as_json(await anyio.to_thread.run_sync(work, limiter=at_once()))
        except FaceflaxError as error:
            raise HTTPException(400, str(error)) from None

    @api.get("/healthz", response_model=Health, summary="Say that the server is there")
    async def healthz() -> dict[str, str]:
        """Answers at once, without a token too."""
        return {"status": "ok", "version": version}

    @api.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs(request: Request) -> str:
        described = api.openapi()
        schemas = described["components"]["schemas"]
        body = html.render(
            _PAGE,
            paths=described["paths"],
            picture=list(schemas["Answer"]["properties"]),
            face=list(schemas["Face"]["properties"]),
            address=str(request.base_url),
        )
        return html.page("faceflax over HTTP", body)

    return api


async def _content(request: Request, limits: Limits) -> tuple[bytes, str]:
    """The picture's bytes and name; of a form, those of its first file."""
    try:
        body = await _read(request, limits)
    except FaceflaxError as error:
        raise HTTPException(413, str(error)) from None
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return body, "picture"

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, again).form(max_files=1) as form:
        for value in form.values():
            if isinstance(value, UploadFile):
                return await value.read(), value.filename or "picture"
    raise HTTPException(400, "picture: the form has no file; send one as 'file'")


async def _read(request: Request, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limits.bytes:
            raise too_large("picture", limits)
        parts.append(part)
    return b"".join(parts)
