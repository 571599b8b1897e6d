"""The pages that users meet: linking accounts, entering an API key, confirming a client, going back to an application.

They are whole without JavaScript (but for opening an application by itself), load nothing from anywhere, and never end
up in a cache or a frame. What must not live here: what their buttons do.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlencode

import msgspec

from trustgate.oauth.http import HTML, HeaderList, Reply, Request
from trustgate.oauth.redirects import application, destination
from trustgate.oauth.state import Client

COOKIE = re.compile(r"[A-Za-z0-9_-]{32,64}")
"""What `consent` names browsers; whatever else a cookie holds is not given back."""

PAGE_HEADERS: HeaderList = [
    HTML,
    (b"cache-control", b"no-store, must-revalidate"),
    (b"pragma", b"no-cache"),
]
STYLE = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#171a21;--soft:#5c6470;--line:#e3e6eb;--go:#1f5eff;
--ok:#127a45;--warn:#9a5b00;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--bg:#101216;--card:#191c22;--ink:#eceef2;--soft:#9aa3b0;--line:#2b303a;
--go:#7aa2ff;--ok:#5bd28f;--warn:#f0b35a;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;grid-template-columns:minmax(0,520px);place-content:center;padding:24px;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:32px}
h1{margin:0 0 4px;font-size:22px;letter-spacing:-.01em}
p{margin:0 0 20px;color:var(--soft)}
ul{list-style:none;margin:0;padding:0}
li{display:flex;flex-wrap:wrap;align-items:center;gap:12px;padding:16px 0;border-top:1px solid var(--line)}
li>div{flex:1 1 140px;min-width:0}
li strong{display:block}li strong,li small{overflow-wrap:anywhere}
li small{color:var(--soft)}
.state{font-size:13px;font-weight:600}.linked{color:var(--ok)}.expired{color:var(--warn)}
.button,.continue,button{display:inline-block;border:1px solid var(--go);border-radius:9px;padding:8px 16px;
background:var(--go);color:var(--card);font:inherit;font-weight:600;text-decoration:none;cursor:pointer}
button.quiet{background:transparent;border-color:var(--line);color:var(--soft)}
.button:focus-visible,.continue:focus-visible,button:focus-visible,input:focus-visible
{outline:3px solid var(--go);outline-offset:2px}
.flash{border:1px solid var(--bad);color:var(--bad);border-radius:9px;padding:10px 14px;margin:0 0 16px;
overflow-wrap:anywhere}
.continue{margin-top:24px;width:100%;text-align:center}
label{display:block;font-weight:600;margin-bottom:6px}
input{width:100%;font:inherit;padding:10px 12px;border:1px solid var(--line);border-radius:9px;background:var(--bg);
color:var(--ink);margin-bottom:16px}
code{overflow-wrap:anywhere}
form{margin:0}
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One provider on the connect page. `state`: `none`, `linked` or `expired`."""

    name: str
    provider: str
    state: str


def page(title: str, body: str, status: int = 200, script: str = "") -> Reply:
    """A whole page; its only script, if any, is the given one."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    )
    tag = f'<script nonce="{nonce}">{script}</script>' if script else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><style nonce="{nonce}">{STYLE}</style></head>'
        f"<body><main>{body}</main>{tag}</body></html>"
    )
    headers = [*PAGE_HEADERS, (b"content-security-policy", policy.encode())]
    return Reply(status=status, headers=headers, body=text.encode())


def connect(rows: Sequence[Row], ticket: str, resume: str, flash: str = "", who: str = "") -> Reply:
    """Every provider of the consumer with its state; `resume` is where a login goes on."""
    parts = ["<h1>Connect your accounts</h1>"]
    name = f" for <code>{escape(who)}</code>" if who else ""
    if rows:
        parts.append(f"<p>These tools act with your own accounts{name}. You can revoke each link here.</p>")
    if flash:
        parts.append(f'<div class="flash" role="alert">{escape(flash)}</div>')
    if rows:
        parts.append("<ul>" + "".join(_row(row, ticket) for row in rows) + "</ul>")
    else:
        parts.append("<p>No tool of this server needs an account of yours.</p>")
    if resume:
        parts.append(f'<a class="continue" href="{escape(resume)}">Continue</a>')
    return page("Connect accounts \u00b7 TrustGate", "".join(parts))


def _row(row: Row, ticket: str) -> str:
    provider, query = quote(row.provider), urlencode({"ticket": ticket})
    link = f"/oauth/connect/{provider}?{query}"
    if row.state == "linked":
        action = (
            '<span class="state linked">Connected</span>'
            f'<form method="post" action="/oauth/disconnect/{provider}?{query}">'
            '<button class="quiet">Revoke</button></form>'
        )
    elif row.state == "expired":
        action = f'<span class="state expired">Expired</span><a class="button" href="{escape(link)}">Reconnect</a>'
    else:
        action = f'<a class="button" href="{escape(link)}">Connect</a>'
    return f"<li><div><strong>{escape(row.name)}</strong><small>{escape(row.provider)}</small></div>{action}</li>"


def api_key_form(slug: str) -> Reply:
    """Where a user without an identity provider shows the key of an application."""
    body = (
        "<h1>Connect with an API key</h1><p>Enter the API key you use with this server to manage its accounts.</p>"
        f'<form method="post" action="/{escape(quote(slug))}/connect"><label for="api_key">API key</label>'
        '<input id="api_key" name="api_key" type="password" autocomplete="off" required>'
        "<button>Continue</button></form>"
    )
    return page("Connect with an API key \u00b7 TrustGate", body)


def deep_link(uri: str) -> Reply:
    """Back to an application on this machine: its link is opened by script, and by a button without one."""
    name = application(uri)
    body = (
        f"<h1>Authentication complete</h1><p>You can return to {escape(name)} now.</p>"
        f'<a class="button" id="open" href="{escape(uri)}">Open {escape(name)}</a>'
    )
    return page(
        "Authentication complete \u00b7 TrustGate", body, script="location.href=document.getElementById('open').href"
    )


def consent(request: Request, client: Client | None, key: bytes) -> Reply | None:
    """The page that asks which application is let in; None when this very request was confirmed in this browser.

    The confirmation is an HMAC over the browser's cookie and the request, so a link cannot bring its own.
    """
    pairs = request.query_fields
    fields = [(name, value) for name, value in pairs if name != "confirm"]
    given = next((value for name, value in pairs if name == "confirm"), "")
    cookie = browser(request)
    if cookie and given and hmac.compare_digest(given.encode(), _seal(key, cookie, fields).encode()):
        return None
    cookie = cookie or secrets.token_urlsafe(24)
    uri = next((value for name, value in fields if name == "redirect_uri"), "")
    name = client.client_name if client is not None and client.client_name else "An application"
    host = destination(uri)
    link = f"{request.path}?{urlencode([*fields, ('confirm', _seal(key, cookie, fields))])}"
    body = (
        f"<h1>{escape(name)} wants to sign in</h1>"
        f"<p>It will act with your identity, and is sent back to <code>{escape(host)}</code>."
        " Go on only if you have just started this yourself.</p>"
        f'<a class="button" href="{escape(link)}">Continue to sign in</a>'
    )
    reply = page("Confirm sign-in \u00b7 TrustGate", body)
    secure = "; Secure" if request.base_url.startswith("https:") else ""
    value = f"tg_browser={cookie}; Path=/oauth; HttpOnly; SameSite=Lax; Max-Age=600{secure}"
    reply.headers.append((b"set-cookie", value.encode()))
    return reply


def browser(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get(b"cookie", b"").decode("latin-1")).get("tg_browser")
    except CookieError:
        return ""
    return found.value if found is not None and COOKIE.fullmatch(found.value) else ""


def _seal(key: bytes, cookie: str, fields: Sequence[tuple[str, str]]) -> str:
    data = msgspec.json.encode([cookie, sorted(fields)])
    return hmac.new(key, b"consent\0" + data, hashlib.sha256).hexdigest()
