"""What must happen in one step on the server. But for MOVE, a script touches the keys of one channel (one hash slot).

Times are the server's, in whole milliseconds: rounded up when a delay begins, down when it is compared, so never early.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

__all__ = ["ALL", "BACK", "CLAIM", "EXTEND", "LATER", "LEAVE", "MAKE", "MOVE", "SWEEP", "TRIM", "Script"]

Argument = str | bytes | int


class Script:
    """A script that the server knows by its digest."""

    def __init__(self, source: str) -> None:
        """Compute the digest."""
        self.source: Final = source
        self.digest: Final = hashlib.sha1(source.encode()).hexdigest()

    def load(self) -> tuple[Argument, ...]:
        """Return the command that makes the server know it."""
        return ("SCRIPT", "LOAD", self.source)

    def run(self, keys: Sequence[Argument], *args: Argument) -> tuple[Argument, ...]:
        """Return the command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


MAKE = Script("""
-- KEYS: stream. An empty stream without a group, so that NOMKSTREAM finds it.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], '-', '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], '-')
end
return redis.call('TYPE', KEYS[1])
""")

LATER = Script("""
-- KEYS: due set. ARGV: delay in ms, unique id, field, value, ...
local t = redis.call('TIME')
local now = t[1] * 1000 + math.ceil(t[2] / 1000)
local fields = {}
for i = 3, #ARGV do fields[i - 2] = ARGV[i] end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[1]), cmsgpack.pack({ARGV[2], fields}))
return 'later'
""")

MOVE = Script("""
-- KEYS: due set, its stream, due set, its stream, ...  ARGV: the most to move.
-- Returns ms until the next one is due (-1: there is none) and how many moved. A missing stream keeps them waiting.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local room, moved, soonest = tonumber(ARGV[1]), 0, -1
for k = 1, #KEYS, 2 do
  local head = redis.call('ZRANGE', KEYS[k], 0, 0, 'WITHSCORES')
  if #head > 0 and tonumber(head[2]) <= now and room > 0 then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[k], '-inf', now, 'LIMIT', 0, room)) do
      if redis.call('XADD', KEYS[k + 1], 'NOMKSTREAM', '*', unpack(cmsgpack.unpack(member)[2])) then
        redis.call('ZREM', KEYS[k], member)
        moved = moved + 1
        room = room - 1
      end
    end
    head = redis.call('ZRANGE', KEYS[k], 0, 0, 'WITHSCORES')
  end
  local wait = #head > 0 and head[2] - now or 0
  if wait > 0 and (soonest < 0 or wait < soonest) then soonest = wait end
end
return {soonest, moved}
""")

BACK = Script("""
-- KEYS: stream, the stream to come back on, its due set.
-- ARGV: group, consumer, delete the old one (0, 1), keep an origin (0, 1), then id, delay in ms, failed, counted, ...
-- Stores a message again and settles the old entry. Answers each: 1 done, 0 not ours, -1 deleted by somebody.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.ceil(t[2] / 1000)
local out = {}
local own = {_failed = true, _count = true, _origin = true}
for i = 5, #ARGV, 4 do
  local id, delay = ARGV[i], tonumber(ARGV[i + 1])
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) == 0 then
    out[#out + 1] = 0
  else
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if not entry then
      out[#out + 1] = -1
    else
      local old, origin = entry[2], KEYS[1] .. '@' .. id
      local fields = {}
      for j = 1, #old, 2 do
        if old[j] == '_origin' then origin = old[j + 1] end
        if not own[old[j]] then
          fields[#fields + 1] = old[j]
          fields[#fields + 1] = old[j + 1]
        end
      end
      for _, value in ipairs({'_failed', ARGV[i + 2], '_count', ARGV[i + 3]}) do fields[#fields + 1] = value end
      if ARGV[4] == '1' then
        fields[#fields + 1] = '_origin'
        fields[#fields + 1] = origin
      end
      if delay > 0 then
        redis.call('ZADD', KEYS[3], string.format('%.0f', now + delay), cmsgpack.pack({KEYS[1] .. id, fields}))
      else
        redis.call('XADD', KEYS[2], '*', unpack(fields))
      end
      out[#out + 1] = 1
    end
    redis.call('XACK', KEYS[1], ARGV[1], id)
    if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], id) end
  end
end
return out
""")

EXTEND = Script("""
-- KEYS: stream. ARGV: group, consumer, ids.
-- Renews what is ours and answers 1; 0: it is somebody else's, and XCLAIM alone would steal it.
local out, claim = {}, {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) > 0 then
    claim[#claim + 1] = ARGV[i]
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
  if #claim > 1000 or (i == #ARGV and #claim > 5) then
    claim[#claim + 1] = 'JUSTID'
    redis.call(unpack(claim))
    claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
  end
end
return out
""")

CLAIM = Script("""
-- KEYS: stream. ARGV: group, consumer, lease in ms, limit, lost answer (0, 1), ids that we hold.
-- 0: takes over what is idle for longer than the lease. 1: takes what is ours, but was in an answer that got lost.
-- Answers {id, count, fields}; a count of -1: somebody deleted the entry, there is nothing to deliver.
local held, out, limit = {}, {}, tonumber(ARGV[4])
for i = 6, #ARGV do held[ARGV[i]] = true end
local found, idle, more
if ARGV[5] == '1' then
  found, idle, more = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', limit + #ARGV - 5, ARGV[2]), 0, 0
else
  found, idle, more = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', limit + #ARGV - 5), ARGV[3], 1
end
for _, p in ipairs(found) do
  if #out < limit and not (p[2] == ARGV[2] and held[p[1]]) then
    local count = p[4] + more
    local got = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], idle, p[1], 'RETRYCOUNT', count)
    if got[1] and got[1][2] then
      out[#out + 1] = {p[1], count, got[1][2]}
    else
      redis.call('XACK', KEYS[1], ARGV[1], p[1])
      out[#out + 1] = {p[1], -1}
    end
  end
end
return out
""")

TRIM = Script("""
-- KEYS: stream. ARGV: settled entries to keep, groups that must be there.
-- Drops the oldest entries that every group has settled. Answers how many; -1: a group is missing: nothing is known.
local function older(a, b)
  local a1, a2 = a:match('(%d+)-(%d+)')
  local b1, b2 = b:match('(%d+)-(%d+)')
  if a1 ~= b1 then return #a1 < #b1 or (#a1 == #b1 and a1 < b1) end
  return #a2 < #b2 or (#a2 == #b2 and a2 < b2)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local excess = redis.call('XLEN', KEYS[1]) - ARGV[1]
if excess <= 0 then return 0 end
local low, there = nil, {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
  there[group['name']] = true
  local id = group['last-delivered-id']
  if group['pending'] > 0 then id = redis.call('XPENDING', KEYS[1], group['name'])[2] end
  if not low or older(id, low) then low = id end
end
for i = 2, #ARGV do if not there[ARGV[i]] then return -1 end end
if not low or low == '0-0' then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', low, 'LIMIT', excess)
""")

LEAVE = Script("""
-- KEYS: stream. ARGV: group, consumer. Deleting a consumer discards what is pending with it: only where nothing is.
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return -1 end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
""")

SWEEP = Script("""
-- KEYS: stream. ARGV: group, idle ms.
-- Forgets consumers that died long ago; a live one that is hit is made again by its next read.
local gone = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    gone = gone + 1
  end
end
return gone
""")

ALL: Final = (MAKE, LATER, MOVE, BACK, EXTEND, CLAIM, TRIM, LEAVE, SWEEP)
