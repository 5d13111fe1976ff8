-- The beginning of both scripts: what they know of a room, and its epoch.
--
-- KEYS[1] meta: a hash of
--   epoch, offset   where the room stands
--   server          the replication id of the server that gave the last offset
--   born            when the epoch began, in ms
--   least           the epoch, and an offset that its last one is not below
--   oldest          the epoch, and since when, in ms, all that was committed is in it
--   top:<kind>      the highest stamp among the remembered rows of a kind
--   floor:<kind>    the highest stamp among its forgotten rows
--   told:<kind>     the epoch and when, in ms, rows of a kind last were told as stale
-- KEYS[2] log: a list of the room's last publications, the newest last
-- ARGV[1] the epoch to begin if one has to begin; empty: none is begun
-- ARGV[2] how long publications and stamps are kept, in milliseconds
--
-- A record, in the log and in a message, is
--   <offset> <time in ms> <more: 0|1> <stamp or -> <bytes of event> <bytes of data> <id or ->\n
-- followed by the event and the data; a commit's last record has the id under which the
-- commit was published. A message is <epoch>\n and records.

local meta, log = KEYS[1], KEYS[2]
local ttl = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- An epoch outlives its history by a day; of a room that nobody has published to yet,
-- by an hour.
local keep = ttl + 24 * 3600 * 1000
local keep_idle = ttl + 3600 * 1000

-- A server that takes over from another, or comes back from a file, may have lost the
-- newest offsets and would give them again: each such beginning has a replication id
-- of its own. Where INFO is not allowed, nothing is compared.
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''

-- What others have written there is not believed. A whole number that more can be added
-- to, in digits; nil: it is none, as nan, 1e300, -5 and 2^53 are.
local function number(text)
  if text and #text <= 16 and string.match(text, '^%d+$') then
    local found = tonumber(text)
    return found <= 9007199254000000 and found or nil
  end
end

-- Of what the callers learn: something broken was put right, the server's clock has
-- gone back, the epoch has begun just now.
local HEALED, CLOCK_BACK, BEGUN = 1, 2, 4
local flags = {}
local function flagged()
  local sum = 0
  for flag in pairs(flags) do
    sum = sum + flag
  end
  return sum
end

local found = redis.call('HMGET', meta, 'epoch', 'offset', 'server', 'born', 'least')
local epoch, offset, born = found[1], number(found[2]), number(found[4]) or 0
local function begin()
  epoch, offset, born = ARGV[1], 0, nil
  flags[BEGUN] = true
  redis.call('HSET', meta, 'epoch', epoch, 'offset', 0, 'server', server, 'born', string.format('%.0f', now))
  redis.call('HDEL', meta, 'least', 'oldest')
  redis.call('DEL', log)
  redis.call('PEXPIRE', meta, keep_idle)
end

local least, least_in = nil, nil
if found[5] then
  least_in, least = string.match(found[5], '^(%S+) (%d+)$')
end
local broken = (found[1] or found[2]) and (
  not epoch or #epoch > 64 or not string.match(epoch, '^[%w_-]+$')
  or not offset
  or (found[4] and not number(found[4]))
  -- An offset below one that was given would be given again, and taken for known.
  or (least_in == epoch and offset < (number(least) or 0)))
if broken or not epoch or (server ~= '' and server ~= found[3]) then
  if ARGV[1] == '' then
    epoch, offset, born = nil, 0, nil
  else
    if broken then
      flags[HEALED] = true
    end
    begin()
  end
elseif born > now then
  -- How old the epoch is would be less than nothing until then, and each commit older.
  flags[CLOCK_BACK] = true
  born = now
  redis.call('HSET', meta, 'born', string.format('%.0f', now))
end
