"""`/docs`: the routes and what their bodies hold, made from the OpenAPI document. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.1rem } p { margin: .25rem 0 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886 }
code { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
"""


def route_reference(app: FastAPI) -> APIRouter:
    """Return the route of the page."""
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render_reference(app.openapi()), headers={"Content-Security-Policy": POLICY})

    return router


def render_reference(document: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    title = escape(str(document["info"]["title"]))
    routes = "".join(_route(document, path, method, route)
                     for path, methods in document["paths"].items() for method, route in methods.items())  # fmt: skip
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        "<p>A route refuses with a sentence: <code>"
        '{"error": {"message", "type", "code", "param"}}</code>. '
        'The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{routes}</body></html>\n"
    )


def _route(document: Mapping[str, Any], path: str, method: str, route: Mapping[str, Any]) -> str:
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = "; ".join(f"{status} {escape(answer['description'])}" for status, answer in _answers(route))
    told = escape(str(route.get("description") or route.get("summary") or ""))
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{told}</p>"
        f"{_fields(document, body) if body else ''}<p><small>{answers}</small></p>"
    )


def _answers(route: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from ((status, answer) for status, answer in route["responses"].items() if status != "422")


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the fields of a body as a table, with those of the objects within it."""
    found = _resolve(document, schema)
    required = found.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(document, field))}</td>"
        f"<td>{'required' if name in required else escape(_default(field))}</td>"
        f"<td>{escape(' '.join(str(_about(document, field)).split()))}</td></tr>"
        for name, field in found.get("properties", {}).items()
    )
    return f"<table><tr><th>Field</th><th>Holds</th><th>Left out</th><th>Meaning</th></tr>{rows}</table>"


def _resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _default(field: Mapping[str, Any]) -> str:
    return "" if field.get("default") is None else f"{field['default']!r}"


def _about(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """Return what a field says of itself, else what the object says that it holds."""
    inner = [_resolve(document, option) for option in field.get("anyOf", (field,))]
    return str(field.get("description") or next((each["description"] for each in inner if "description" in each), ""))


def _kind(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """Return what a field may hold, in a few words."""
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_kind(document, option) for option in options))
    found = _resolve(document, field)
    if "const" in found or "enum" in found:
        return ", ".join(map(repr, found.get("enum", [found.get("const")])))
    if found.get("type") == "array":
        return f"list of {_kind(document, found.get('items', {}))}"
    if found.get("properties"):
        return "{" + ", ".join(found["properties"]) + "}"
    low, high = found.get("minimum", found.get("exclusiveMinimum")), found.get("maximum", found.get("exclusiveMaximum"))
    span = "" if low is None and high is None else f", {low if low is not None else ''} to {high or ''}"
    return f"{found.get('type', 'anything')}{span}"
