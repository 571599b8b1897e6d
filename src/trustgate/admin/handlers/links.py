"""`GW/links`: the accounts that users have linked behind MCP tools, without their tokens (an addition)."""

from __future__ import annotations

from trustgate.admin import lists
from trustgate.admin.exchange import Answer, Call, json_answer
from trustgate.domain.errors import not_found


async def list_all(call: Call) -> Answer:
    query = call.query
    page = lists.read_page(query)
    subject, provider = query.get("subject"), query.get("provider")
    found = await call.services.links(call.params["gateway_id"])
    matching = [link for link in found if subject in ("", link["subject"]) and provider in ("", link["provider"])]
    return json_answer(lists.paged(matching, page).envelope(lambda link: link))


async def delete(call: Call) -> Answer:
    """The user has to link again; the provider is not told."""
    if not await call.services.unlink(call.params["gateway_id"], call.params["id"]):
        raise not_found()
    return Answer(204)
