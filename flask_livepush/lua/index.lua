-- Enters rooms into a part of the index, by this server's clock and nobody else's.
--
-- KEYS[1] index: a sorted set of rooms by their last use, in seconds since 1970
-- KEYS[2] mark: a hash of
--   token    another one each time that the part was listed, to tell all rooms something
--   server   the replication id of the server that has given it: another one may have
--            lost the newest rooms
-- ARGV[1] a token to give if one has to be given
-- ARGV[2] 1: rooms are entered; 0: those that are in it are kept, others not entered
-- ARGV[3] and all that follow: the rooms
--
-- Reply: the token, and for each room 1 if it was in the index before, else 0.

local time = redis.call('TIME')
local now = string.format('%.6f', time[1] + time[2] / 1000000)
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
local found = redis.call('HMGET', KEYS[2], 'token', 'server')
local token = found[1]
if not token or not string.match(token, '^[%w_-]+$') or #token > 24 or found[2] ~= server then
  token = ARGV[1]
  redis.call('HSET', KEYS[2], 'token', token, 'server', server)
end

local reply = {token}
for at = 3, #ARGV do
  if ARGV[2] == '1' then
    reply[at - 1] = 1 - redis.call('ZADD', KEYS[1], now, ARGV[at])
  else
    reply[at - 1] = redis.call('ZADD', KEYS[1], 'XX', 'CH', now, ARGV[at])
  end
end
return reply
