-- The beginning of both scripts of ended logins: which epoch it is, and what was lost.
--
-- An epoch is a time in which Redis has forgotten nothing. Whoever knows another one
-- writes back what it knows. So a new one begins where there is none, where the server
-- is another (a failover, a start from a file, which may lack the last second), where a
-- key was removed, and where an entry is missing that somebody has read.
--
-- KEYS[1] meta: a hash of
--   epoch    the epoch
--   server   the replication id of the server in which it began
--   settled  when, in ms, whoever knows nothing itself may take all for written back
--   last     the newest entry of ended
--   ended, orders   the newest entry that was trimmed from each
-- KEYS[2] ended: a stream; an entry has e, which is logins with a blank between them:
--         <login>, + where its clients are to come back, @<seconds since 1970> where it
--         ended before the entry was made
-- KEYS[3] orders: a stream; an entry has n, the process it comes from, and o, JSON
-- ARGV[1] the epoch to begin if one has to begin
-- ARGV[2] the epoch that the process knows; empty: none
-- ARGV[3] the last entry of ended that it has read; empty: none
-- ARGV[4] how long ended logins are kept, in milliseconds
-- ARGV[5] PUBLISH or SPUBLISH        ARGV[6] the channel
-- ARGV[7] how many subscriptions of the channel are the process's own

local meta, ended, orders = KEYS[1], KEYS[2], KEYS[3]
local known, position = ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- All outlive what they hold by a day.
local keep = tonumber(ARGV[4]) + 24 * 3600 * 1000

local function before(one, other)
  local ms, n = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_n = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms) or 0, tonumber(other_ms) or 0
  return ms < other_ms or (ms == other_ms and (tonumber(n) or 0) < (tonumber(other_n) or 0))
end

local function newest(stream)
  local found = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return found and found[1] or '0-0'
end

-- What others have put there is removed, and what was there is lost.
local lost = false
for key, kind in pairs({[meta] = 'hash', [ended] = 'stream', [orders] = 'stream'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
    lost = true
  end
end

-- Where INFO is not allowed, the entries that somebody has read tell of a failover.
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''

local found = redis.call('HMGET', meta, 'epoch', 'server', 'settled', 'last', 'ended', 'orders')
local epoch, settled = found[1], tonumber(found[3]) or 0
local trimmed, trimmed_orders = found[5] or '0-0', found[6] or '0-0'
local top = newest(ended)

-- Says whether an entry that was there is there no more, and nobody has trimmed it.
local function is_lost(entry)
  return before(trimmed, entry) and #redis.call('XRANGE', ended, entry, entry) == 0
end

if epoch then
  lost = lost or (server ~= '' and (found[2] or '') ~= '' and server ~= found[2])
  lost = lost or (found[4] and before(top, found[4]) and before(trimmed, found[4]))
  if known == epoch and position ~= '' and position ~= '0-0' then
    lost = lost or is_lost(position)
  end
end
if not epoch or lost then
  -- New, or begun anew? On a server that has been there for a while, where nobody
  -- listens and nobody has known anything, it is new. In whole seconds, and down.
  local text = redis.pcall('INFO', 'server')
  local up = type(text) == 'string' and tonumber(string.match(text, 'uptime_in_seconds:(%d+)')) or 0
  local count = ARGV[5] == 'SPUBLISH' and 'SHARDNUMSUB' or 'NUMSUB'
  local heard = redis.pcall('PUBSUB', count, ARGV[6])
  local others = (tonumber(heard[2]) or 1) - tonumber(ARGV[7])
  local new = not epoch and not lost and known == '' and top == '0-0' and others <= 0 and up >= 3
  epoch, settled = ARGV[1], new and 0 or now + 2000
  redis.call('HSET', meta, 'epoch', epoch, 'server', server, 'settled', string.format('%.0f', settled), 'last', top)
  redis.call('PEXPIRE', meta, keep)
  redis.call(ARGV[5], ARGV[6], '')
elseif redis.call('PTTL', meta) < keep - 3600000 then
  redis.call('PEXPIRE', meta, keep)
end

