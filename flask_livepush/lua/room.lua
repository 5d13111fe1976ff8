-- The beginning of both scripts: what they know of a room, and its epoch.
--
-- KEYS[1] meta: a hash of
--   epoch, offset   where the room stands
--   server          the replication id of the server that gave the last offset
--   born            when the epoch began, in ms
--   top:<kind>      the highest stamp among the remembered rows of a kind
--   floor:<kind>    the highest stamp among its forgotten rows
--   told:<kind>     the epoch and when, in ms, rows of a kind last were told as stale
-- KEYS[2] log: a list of the room's last publications, the newest last
-- ARGV[1] the epoch to begin if one has to begin
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

local found = redis.call('HMGET', meta, 'epoch', 'offset', 'server', 'born')
local epoch, offset = found[1], tonumber(found[2])
local born = tonumber(found[4]) or 0
if not epoch or not offset or (server ~= '' and server ~= found[3]) then
  epoch, offset, born = ARGV[1], 0, nil
  redis.call('HSET', meta, 'epoch', epoch, 'offset', 0, 'server', server, 'born', string.format('%.0f', now))
  redis.call('DEL', log)
  redis.call('PEXPIRE', meta, keep_idle)
end

