"""A streamed answer held back until it has been judged, window by window.

What lives here: which events are held, when they are judged and which then go on. What must not: who judges, and what
a dialect's events say (`deltas`).

- Events leave as they came and in their order, unless their text was replaced.
- Text is judged when `window` characters are held and at the end. Of what was judged the last `hold_back` characters
  stay, to be judged once more with what follows: no part of a phrase that is not longer leaves before the whole phrase
  was judged, wherever windows and events cut it. With several choices in one stream both count for each of them.
- A tool call is judged when all of it is there.
- What is held is bounded by `MAX_HELD_BYTES` and one event: beyond it everything is judged, and goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.formats.nesting import too_deep
from trustgate.policies.conversation import Call
from trustgate.policies.deltas import TEXT, CallFragment, Delta, Fragment, read_delta
from trustgate.policies.model import Outcome

MAX_HELD_BYTES = 1 << 20
HEARTBEATS = (b":", b"event: ping\n")
MAX_TOLD = 2 << 20
"""Characters remembered for the Responses API, which repeats its texts; an event of it cannot be longer."""


class Said(msgspec.Struct):
    """What the held events say in one answer. `texts` are the places of `text`."""

    texts: list[Fragment] = []
    reasoning: str = ""
    calls: list[Call] = []

    @property
    def text(self) -> str:
        return "".join(fragment.slot.text for fragment in self.texts)

    def replace(self, text: str) -> None:
        """Put another text in place of the held one; each event gets the share that it had."""
        start, last = 0, len(self.texts) - 1
        for index, fragment in enumerate(self.texts):
            end = start + len(fragment.slot.text)
            fragment.slot.text = text[start:] if index == last else text[start:end]
            start = end


Judge = Callable[[list[Said]], Awaitable[Outcome | None]]
"""Judges what is held: None lets it go on (its texts possibly replaced), an outcome ends the stream."""


class _Event:
    """One held event: its bytes, and the trees of its payloads where they say something."""

    __slots__ = ("calls", "lines", "original", "raw", "repeats", "texts", "trees")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.lines: list[bytes] = []
        self.trees: dict[int, Any] = {}
        self.texts: list[Fragment] = []
        self.repeats: list[Fragment] = []
        self.calls: list[CallFragment] = []
        self.original: list[str] = []

    def read(self, format_: str) -> Delta:
        """What the event says, over all its `data:` lines."""
        delta = Delta()
        self.lines = self.raw.split(b"\n")
        payloads = {index: line[5:] for index, line in enumerate(self.lines) if line.startswith(b"data:")}
        if len(payloads) > 1 and _object(whole := b"\n".join(payloads.values())) is not None:
            first = min(payloads)
            self.lines = [line for index, line in enumerate(self.lines) if index <= first or index not in payloads]
            payloads = {first: whole}
        for index, payload in payloads.items():
            tree = _object(payload)
            if tree is None:
                continue
            found = read_delta(format_, tree)
            if found.texts or found.calls:
                self.trees[index] = tree
                delta.texts += found.texts
                delta.calls += found.calls
        return delta

    @property
    def size(self) -> int:
        said = sum(len(fragment.slot.text) for fragment in self.texts)
        return said + sum(len(call.name) + len(call.arguments) for call in self.calls)

    def encode(self) -> bytes:
        """The event with its texts as they are now."""
        for index, tree in self.trees.items():
            self.lines[index] = b"data: " + fj.encode(tree)
        return b"\n".join(self.lines)


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        return fj.object_tree(payload.strip()) if b"{" in payload else None
    except DecodeError:
        return None


class HoldBack:
    """Feed a client's bytes of one stream in any chunking; what comes back may go to the client.

    Once `outcome` is set the stream is over for the client and nothing more comes back.
    """

    def __init__(self, format_: str, judge: Judge, window: int, hold_back: int) -> None:
        self.outcome: Outcome | None = None
        self._format = format_
        self.judge = judge
        self._window = window
        self._hold_back = hold_back
        self._rest = b""  # the event that has not ended yet
        self._held: list[_Event] = []
        self._held_size = self._held_bytes = 0
        self._fresh = 0  # characters held that were never judged
        self._in_call = False
        self._answers = {0}
        self._repeating = format_ == "openai_responses"
        self._told_size = 0
        self._told: dict[Hashable, str] = {}  # texts by channel as the upstream told them
        self._shown: dict[Hashable, str] = {}  # and as the client has them
        self._called: dict[Hashable, str] = {}

    async def feed(self, data: bytes) -> bytes:
        """What may leave after these bytes. Cancelled while it judges, it lets nothing go."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        out: list[bytes] = []
        for raw in events:
            if self.outcome is not None:
                break
            out.append(await self._take(_Event(raw + b"\n\n")))
        if len(self._rest) > MAX_HELD_BYTES and self.outcome is None:
            rest, self._rest = self._rest, b""
            out.append(await self._take(_Event(rest)))
        return b"".join(out)

    async def end(self) -> bytes:
        """What is left of the stream, judged."""
        out = b""
        if self._rest and self.outcome is None:
            rest, self._rest = self._rest, b""
            out = await self._take(_Event(rest))
        if self._fresh and self.outcome is None:
            await self._ask()
        return out + (self._release(0) if self.outcome is None else b"")

    async def _take(self, event: _Event) -> bytes:
        if too_deep(event.raw):  # what cannot be read here a client may still be able to read
            self.outcome = Outcome(kind="reject", status=502, message="the answer is nested too deeply")
            return b""
        self._sort(event, event.read(self._format))
        if not self._held and not (event.texts or event.calls):
            return self._leave(event)
        self._held.append(event)
        size = event.size
        self._held_size += size
        self._held_bytes += len(event.raw)
        self._fresh += size
        self._in_call = bool(event.calls) or (self._in_call and event.raw.startswith(HEARTBEATS))
        if self._held_bytes > MAX_HELD_BYTES:
            return await self._judged(0)
        answers = len(self._answers)
        window, hold_back = self._window * answers, self._hold_back * answers
        if self._in_call or self._held_size < window or self._fresh < max(1, window - hold_back):
            return b""
        return await self._judged(hold_back)

    async def _judged(self, hold_back: int) -> bytes:
        if self._fresh:
            await self._ask()
        return self._release(hold_back) if self.outcome is None else b""

    async def _ask(self) -> None:
        self._fresh = 0
        self.outcome = await self.judge(self._said())
        self._held_size = sum(event.size for event in self._held)

    def _said(self) -> list[Said]:
        """What is held, by answer."""
        said: dict[int, Said] = {}
        calls: dict[Hashable, Call] = {}
        for event in self._held:
            for fragment in event.texts:
                answer = said.setdefault(fragment.answer, Said())
                if fragment.kind == TEXT:
                    answer.texts.append(fragment)
                else:
                    answer.reasoning += fragment.slot.text
            for part in event.calls:
                call = calls.get(part.channel)
                if call is None:
                    call = calls[part.channel] = Call("", "", "")
                    said.setdefault(part.answer, Said()).calls.append(call)
                call.id, call.name = part.id or call.id, part.name or call.name
                call.arguments += part.arguments
        return [said[answer] for answer in sorted(said)]

    def _release(self, hold_back: int) -> bytes:
        """The events in front of the last `hold_back` characters."""
        count, behind = len(self._held), 0
        while count and behind < hold_back:
            count -= 1
            behind += self._held[count].size
        gone, self._held = self._held[:count], self._held[count:]
        self._held_size = behind
        self._held_bytes -= sum(len(event.raw) for event in gone)
        return b"".join(map(self._leave, gone))

    def _leave(self, event: _Event) -> bytes:
        """The event's bytes; texts that are told once more are told as the client has them."""
        changed = [fragment.slot.text for fragment in event.texts] != event.original
        for fragment in event.texts:
            if fragment.channel in self._told:
                shown = "" if fragment.whole else self._shown.get(fragment.channel, "")
                self._shown[fragment.channel] = shown + fragment.slot.text
        for fragment in event.repeats:
            shown = self._shown.get(fragment.channel, "")
            if shown != fragment.slot.text:
                fragment.slot.text = shown
                changed = True
        return event.encode() if changed else event.raw

    def _sort(self, event: _Event, delta: Delta) -> None:
        """What is new in an event, and what of it was told before."""
        for fragment in delta.texts:
            self._answers.add(fragment.answer)
            told = self._told.get(fragment.channel, "")
            if fragment.whole and told == fragment.slot.text:
                event.repeats.append(fragment)
                continue
            event.texts.append(fragment)
            event.original.append(fragment.slot.text)
            self._tell(fragment)
        for call in delta.calls:
            self._answers.add(call.answer)
            if not call.whole:
                if self._repeating:
                    self._called[call.channel] = self._called.get(call.channel, "") + call.arguments
            elif call.channel not in self._called:
                self._called[call.channel] = call.arguments
            elif self._called[call.channel] == call.arguments:
                continue
            event.calls.append(call)

    def _tell(self, fragment: Fragment) -> None:
        if not self._repeating:
            return
        self._told_size += len(fragment.slot.text)
        if self._told_size > MAX_TOLD:
            self._told.clear()
            self._shown.clear()
            return
        told = "" if fragment.whole else self._told.get(fragment.channel, "")
        self._told[fragment.channel] = told + fragment.slot.text
