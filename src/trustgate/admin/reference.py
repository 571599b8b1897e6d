"""The Admin API reference as one HTML page, rendered from the OpenAPI document; no scripts, no outside assets.

What lives here: HTML. What must not: facts about the API.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from typing import Any

from trustgate.admin.openapi import document

Json = dict[str, Any]

STYLE = """
:root{color-scheme:light dark;--line:#d9dce3;--soft:#f5f6f9;--text:#1c2230;--dim:#5d6678;--back:#fff;--accent:#2456d6}
@media (prefers-color-scheme:dark){:root{--line:#333a48;--soft:#1b202b;--text:#e6e9f0;--dim:#9aa3b5;--back:#12161f;
--accent:#8fb0ff}}
*{box-sizing:border-box}body{margin:0;font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);
display:grid;grid-template-columns:16rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.2rem;border-right:1px solid var(--line);
background:var(--soft)}
nav a{display:block;color:var(--text);text-decoration:none;padding:.15rem 0}nav a:hover{color:var(--accent)}
nav .sub{font-size:13px;color:var(--dim);padding-left:.8rem}
main{padding:1.5rem 2rem;max-width:64rem}h1{margin:0 0 .5rem}h2{margin:2.2rem 0 .6rem;text-transform:capitalize}
p.about{white-space:pre-line;color:var(--dim)}
details{border:1px solid var(--line);border-radius:6px;margin:.4rem 0}
summary{padding:.45rem .7rem;cursor:pointer;display:flex;gap:.7rem;align-items:baseline;flex-wrap:wrap}
details[open]>summary{border-bottom:1px solid var(--line)}.in{padding:.6rem .9rem}
b.m{font:600 12px ui-monospace,monospace;padding:.1rem .45rem;border-radius:4px;color:#fff;min-width:4.2em;
text-align:center}
.GET{background:#2456d6}.POST{background:#1c7c44}.PUT{background:#9a6200}.DELETE{background:#b3261e}
code{font:13px ui-monospace,monospace}summary span{color:var(--dim)}
table{border-collapse:collapse;width:100%;margin:.3rem 0 .9rem}td,th{border-bottom:1px solid var(--line);
padding:.25rem .5rem;text-align:left;vertical-align:top;font-size:14px}th{color:var(--dim);font-weight:500}
td:first-child{width:14rem}td:last-child{width:40%}a{color:var(--accent)}h3{margin:1.6rem 0 .2rem;font-size:16px}
section p{margin:.2rem 0;color:var(--dim)}section:target{outline:2px solid var(--accent);outline-offset:6px}
@media (max-width:50rem){body{display:block}nav{position:static;height:auto}}
"""


@cache
def page() -> bytes:
    """The page, UTF-8."""
    described = document()
    by_tag: dict[str, list[tuple[str, str, Json]]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    by_tag["system"] = by_tag.pop("system")  # probes and the like come last
    info = described["info"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body><nav>",
        f"<strong>{escape(info['title'])}</strong>",
        *(f"<a href='#{tag}'>{escape(tag.capitalize())}</a>" for tag in by_tag),
        "<a href='#schemas'>Schemas</a>",
        *(f"<a class=sub href='#{escape(name)}'>{escape(name)}</a>" for name in described["components"]["schemas"]),
        f"<p><a href='/docs/doc.json'>OpenAPI document</a></p></nav><main><h1>{escape(info['title'])}</h1>",
        f"<p class=about>{_marked(info['description'])}</p>",
    ]
    for tag, operations in by_tag.items():
        parts.append(f"<h2 id='{tag}'>{escape(tag)}</h2>")
        parts += [_operation(*entry) for entry in operations]
    parts.append("<h2 id=schemas>Schemas</h2>")
    parts += [_schema(name, schema) for name, schema in described["components"]["schemas"].items()]
    parts.append("</main></body></html>")
    return "".join(parts).encode()


def _operation(method: str, path: str, operation: Json) -> str:
    inner: list[str] = []
    if operation["parameters"]:
        rows = [
            f"<tr><td><code>{escape(it['name'])}</code></td><td>{escape(it['in'])}</td>"
            f"<td>{_type(it['schema'])}</td><td>{_marked(it.get('description', ''))}</td></tr>"
            for it in operation["parameters"]
        ]
        inner.append("<table><tr><th>Parameter<th>In<th>Type<th></tr>" + "".join(rows) + "</table>")
    if "requestBody" in operation:
        inner.append(f"<p>Body: {_type(operation['requestBody']['content']['application/json']['schema'])}</p>")
    rows = []
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json", {}).get("schema")
        shown = _type(content) if content else ""
        rows.append(f"<tr><td>{status}</td><td>{escape(response['description'])}</td><td>{shown}</td></tr>")
    inner.append("<table><tr><th>Status<th><th>Body</tr>" + "".join(rows) + "</table>")
    return (
        f"<details><summary><b class='m {method}'>{method}</b><code>{escape(path)}</code>"
        f"<span>{escape(operation['summary'])}</span></summary><div class=in>{''.join(inner)}</div></details>"
    )


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(member)}</code></td><td>{_type(it)}</td>"
        f"<td>{'always' if member in required else ''}</td></tr>"
        for member, it in schema.get("properties", {}).items()
    ]
    about = _marked(schema.get("description", ""))
    return (
        f"<section id='{escape(name)}'><h3>{escape(name)}</h3><p>{about}</p>"
        f"<table><tr><th>Member<th>Type<th></tr>{''.join(rows)}</table></section>"
    )


def _marked(text: str) -> str:
    """Text with its backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _type(schema: Json) -> str:
    """A short description of a schema, with links to the named ones."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#{escape(name)}'>{escape(name)}</a>"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            kinds = [it for it in schema[union] if it.get("type") != "null"]
            return " or ".join(_type(it) for it in kinds)
    match schema.get("type"):
        case "array":
            return f"array of {_type(schema['items'])}" if schema.get("items") else "array"
        case "object" if "properties" in schema:
            items = schema["properties"].get("items")
            return f"page of {_type(items['items'])}" if items else "object"
        case "object" if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
            return f"map of {_type(schema['additionalProperties'])}"
        case None:
            return "any"
        case kind:
            return escape(f"{kind} ({schema['format']})" if "format" in schema else str(kind))
