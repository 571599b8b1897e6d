"""The whole way in a real browser: the official SDK's login, the identity provider, linking an account, a tool call."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from playwright.sync_api import Page, sync_playwright

from mcp import ClientSession
from tests.oauth.world import CALLBACK, Tenant, Upstream, query_of

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


class Memory(TokenStorage):
    """What the SDK remembers of a login."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """A person at a browser. Every page on the way is photographed where `SCREENSHOTS` names a folder."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.visited: list[str] = []

    def shoot(self, name: str) -> None:
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(pathlib.Path(folder) / f"{name}.png"), full_page=True)

    def log_in(self, user: str) -> None:
        self.page.fill('input[name="sub"]', user)
        with self.page.expect_navigation():
            self.page.locator('input[name="sub"]').press("Enter")

    def link(self, user: str) -> None:
        """From the connect page to the provider and back."""
        self.page.click("text=Connect >> nth=-1")
        self.log_in(user)
        assert self.page.locator(".linked").inner_text() == "Connected"

    def through(self, url: str, user: str) -> str:
        """From the authorization URL to the client's redirect URI, with an account that is linked, ended and linked."""
        caught: list[str] = []
        self.page.route(f"{CALLBACK}*", lambda route: (caught.append(route.request.url), route.fulfill(body="done"))[1])
        self.page.goto(url)
        self.log_in(user)
        assert self.page.locator("h1").inner_text() == "Connect your accounts"
        self.shoot("connect")
        self.link(f"{user}-at-notes")
        self.page.click("button.quiet")
        assert self.page.locator(".linked").count() == 0, "the form of our own page is not taken for another's"
        self.link(f"{user}-at-notes")
        self.shoot("connected")
        self.page.click("a.continue")
        self.page.wait_for_url(f"{CALLBACK}*")
        return caught[-1]


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    # JavaScript is off: every page has to work without.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        context = browser.new_context(java_script_enabled=False, viewport={"width": 900, "height": 700})
        yield context.new_page()
        browser.close()


def forwarded(idp: str) -> dict[str, Any]:
    return {
        "mode": "forwarded",
        "provider": "notes",
        "client_id": "notes-app",
        "client_secret": "notes-app-secret",
        "authorize_url": f"{idp}/oauth2/authorize",
        "token_url": f"{idp}/oauth2/token",
        "scopes": ["openid"],
    }


async def call_with_sdk(url: str, redirect: Any, callback: Any, storage: Memory) -> str:
    metadata = OAuthClientMetadata(redirect_uris=[CALLBACK], client_name="SDK")  # pyright: ignore[reportArgumentType]
    provider = OAuthClientProvider(url, metadata, storage, redirect, callback)
    async with (
        httpx2.AsyncClient(auth=provider, timeout=60, trust_env=False) as http,
        streamable_http_client(url, http_client=http) as streams,
        ClientSession(*streams[:2]) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        assert [tool.name for tool in listed.tools] == ["whoami"]
        result = await session.call_tool("whoami", {})
        return result.content[0].text  # pyright: ignore[reportAttributeAccessIssue]


def test_the_official_sdk_logs_in_and_calls_a_tool_with_the_users_own_account(
    page: Page, tenant: Tenant, upstream: Upstream, idp: str
) -> None:
    registry = tenant.registry("Team notes", upstream.url, forwarded(idp))
    url = tenant.url(tenant.consumer("c", [registry], tenant.oauth2(idp)))
    person, answers, storage = Browser(page), dict[str, str](), Memory()

    async def redirect(where: str) -> None:
        # The page belongs to the thread that made it, and that thread runs this loop.
        answers.update(query_of(person.through(where.replace("+", "%20") + "&scope=openid", "alice")))

    async def callback() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=answers["code"], state=answers.get("state"))

    # Playwright's synchronous interface holds an asyncio loop of this thread, so the SDK runs on Trio beside it.
    seen = anyio.run(lambda: call_with_sdk(url, redirect, callback, storage), backend="trio")
    assert seen.startswith("Bearer ") and storage.tokens is not None
    assert storage.tokens.refresh_token is not None and storage.tokens.refresh_token.startswith("gwrt_")
    page.goto(f"{tenant.mcp}/.well-known/oauth-protected-resource")
    assert "authorization_servers" in page.content()
