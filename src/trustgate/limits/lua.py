"""The one script that applies a batch of operations in Redis.

What lives here: the Lua text and the wire form of operations and replies. Keys are those of the existing TrustGate;
`<key>:held` (a hash of token to `amount:until`) is ours. Every operation of the batch is guarded by itself: one that
hits a key of a wrong type fails alone. Scores and lives are on Redis' own clock, which all processes share.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import getrandbits
from typing import Any

from trustgate.limits.ops import (
    Charge,
    Charged,
    LimitsUnavailable,
    Op,
    Peek,
    Peeked,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Slid,
    Slide,
)

SCRIPT = """
local time = redis.call('TIME')
local now_s = tonumber(time[1])
local now_ms = now_s * 1000 + math.floor(tonumber(time[2]) / 1000)

local function ttl_of(key)
  local ttl = redis.call('PTTL', key)
  if ttl < 0 then return 0 end
  return ttl
end

local function held_on(key)
  local sum = 0
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local amount, till = string.match(all[i + 1], '^(%d+):(%d+)$')
    if tonumber(till) <= now_ms then
      redis.call('HDEL', key, all[i])
    else
      sum = sum + tonumber(amount)
    end
  end
  return sum
end

local function charge(keys, first, amount, args, at)
  local values, ttls = {}, {}
  for i = first, #keys do
    local ttl_ms, ceiling = args[at], tonumber(args[at + 1])
    at = at + 2
    local value = redis.call('INCRBY', keys[i], amount)
    if redis.call('PTTL', keys[i]) < 0 then redis.call('PEXPIRE', keys[i], ttl_ms) end
    values[#values + 1] = value
    ttls[#ttls + 1] = ttl_of(keys[i])
    if ceiling > 0 and value > ceiling then break end
  end
  return {0, values, ttls}
end

local ops = {}

function ops.slide(keys, args)
  local key, window_ms, limit = keys[1], tonumber(args[1]), tonumber(args[2])
  local low = math.floor((now_ms - window_ms) / 1000)
  local count = redis.call('ZCOUNT', key, low, '+inf')
  if count >= limit and args[3] == '0' then return {0, count, 0} end
  redis.call('ZREMRANGEBYSCORE', key, 0, low)
  redis.call('ZADD', key, now_s, string.format('%d%06d000:%s', now_s, tonumber(time[2]), args[4]))
  redis.call('EXPIRE', key, math.floor(window_ms / 1000))
  return {0, count, 1}
end

function ops.charge(keys, args)
  local first = 1
  if args[2] ~= '0' then
    if not redis.call('SET', keys[1], '1', 'NX', 'PX', args[2]) then return {0, {}, {}} end
    first = 2
  end
  return charge(keys, first, args[1], args, 3)
end

local function look(keys)
  local values, held, ttls = {}, {}, {}
  for i = 1, #keys, 2 do
    values[#values + 1] = tonumber(redis.call('GET', keys[i]) or 0)
    held[#held + 1] = held_on(keys[i + 1])
    ttls[#ttls + 1] = ttl_of(keys[i])
  end
  return values, held, ttls
end

function ops.peek(keys, args)
  local values, held, ttls = look(keys)
  return {0, values, held, ttls}
end

function ops.reserve(keys, args)
  local token, amount, hold_ms = args[1], tonumber(args[2]), tonumber(args[3])
  local values, held, ttls = look(keys)
  for i = 1, #values do
    local ceiling = tonumber(args[3 + i])
    if ceiling > 0 and values[i] + held[i] + amount > ceiling then return {0, i - 1, values, held, ttls} end
  end
  for i = 2, #keys, 2 do
    redis.call('HSET', keys[i], token, string.format('%d:%d', amount, now_ms + hold_ms))
    if redis.call('PTTL', keys[i]) < hold_ms then redis.call('PEXPIRE', keys[i], hold_ms) end
  end
  return {0, -1, values, held, ttls}
end

function ops.settle(keys, args)
  local token, amount = args[1], tonumber(args[2])
  local counters = {}
  for i = 1, #keys, 2 do
    redis.call('HDEL', keys[i + 1], token)
    counters[#counters + 1] = keys[i]
  end
  if amount == 0 then return {0, {}, {}} end
  return charge(counters, 1, args[2], args, 3)
end

local out = {}
local key_at, arg_at = 1, 1
while arg_at <= #ARGV do
  local op, key_count, arg_count = ARGV[arg_at], tonumber(ARGV[arg_at + 1]), tonumber(ARGV[arg_at + 2])
  arg_at = arg_at + 3
  local keys, args = {}, {}
  for i = 1, key_count do keys[i] = KEYS[key_at + i - 1] end
  for i = 1, arg_count do args[i] = ARGV[arg_at + i - 1] end
  key_at, arg_at = key_at + key_count, arg_at + arg_count
  local ok, reply = pcall(ops[op], keys, args)
  if ok then
    out[#out + 1] = reply
  else
    if type(reply) == 'table' then reply = reply.err or 'error' end
    out[#out + 1] = {1, tostring(reply)}
  end
end
return out
"""


def encode(ops: Sequence[Op], keys: list[str], args: list[str | int]) -> None:
    """Append the keys and arguments of `ops`."""
    for op in ops:
        _ENCODERS[type(op)](op, keys, args)


def _uuid4() -> str:
    """A random UUID of version 4, for uniqueness only: far cheaper than the standard one, and not unguessable."""
    text = f"{getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _encode_slide(op: Slide, keys: list[str], args: list[str | int]) -> None:
    keys.append(op.key)
    args += ("slide", 1, 4, op.window_ms, op.limit, 1 if op.always else 0, _uuid4())


def _encode_charge(op: Charge, keys: list[str], args: list[str | int]) -> None:
    if op.once_key:
        keys.append(op.once_key)
    keys.extend(window.key for window in op.windows)
    args += ("charge", len(op.windows) + bool(op.once_key), 2 + 2 * len(op.windows), op.amount)
    args.append(op.once_ttl_ms if op.once_key else 0)
    for window in op.windows:
        args += (window.ttl_ms, window.ceiling)


def _encode_peek(op: Peek, keys: list[str], args: list[str | int]) -> None:
    for key in op.keys:
        keys += (key, held_key(key))
    args += ("peek", 2 * len(op.keys), 0)


def _encode_reserve(op: Reserve, keys: list[str], args: list[str | int]) -> None:
    for window in op.windows:
        keys += (window.key, held_key(window.key))
    args += ("reserve", 2 * len(op.windows), 3 + len(op.windows), op.token, op.amount, op.hold_ms)
    args.extend(window.ceiling for window in op.windows)


def _encode_settle(op: Settle, keys: list[str], args: list[str | int]) -> None:
    for window in op.windows:
        keys += (window.key, held_key(window.key))
    args += ("settle", 2 * len(op.windows), 2 + 2 * len(op.windows), op.token, op.amount)
    for window in op.windows:
        args += (window.ttl_ms, 0)


_ENCODERS: dict[type[Any], Any] = {
    Slide: _encode_slide,
    Charge: _encode_charge,
    Peek: _encode_peek,
    Reserve: _encode_reserve,
    Settle: _encode_settle,
}


def held_key(key: str) -> str:
    """Where the holds on a budget are kept."""
    return key + ":held"


def decode(op: Op, reply: Any) -> Reply:
    """The reply to `op`; raises `LimitsUnavailable` when Redis refused it."""
    if reply[0] != 0:
        raise LimitsUnavailable(_text(reply[1]))
    if isinstance(op, Slide):
        return Slid(reply[1], reply[2] == 1)
    if isinstance(op, Peek):
        return Peeked(tuple(reply[1]), tuple(reply[2]), tuple(reply[3]))
    if isinstance(op, Reserve):
        return Reserved(reply[1], tuple(reply[2]), tuple(reply[3]), tuple(reply[4]))
    return Charged(tuple(reply[1]), tuple(reply[2]))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
