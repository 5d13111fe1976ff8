-- Lists a part of the index, to tell all its rooms something.
--
-- KEYS[1] index, KEYS[2] mark: as in index.lua
-- ARGV[1] a token that was never given
-- ARGV[2] for how many seconds a room is kept after its last use
--
-- Reply: all rooms, and those of them that were not used for so long.

local time = redis.call('TIME')
local now = string.format('%.6f', time[1] + time[2] / 1000000)
local info = redis.pcall('INFO', 'replication')
local server = type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'server', server)

-- The clock has gone back, or another one has written: such a room would stay for ever.
local ahead = string.format('%.0f', time[1] + 60)
for _, room in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ahead, '+inf', 'LIMIT', 0, 10000)) do
  redis.call('ZADD', KEYS[1], now, room)
end
local oldest = string.format('%.0f', time[1] - ARGV[2])
return {redis.call('ZRANGE', KEYS[1], 0, -1), redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', oldest)}
