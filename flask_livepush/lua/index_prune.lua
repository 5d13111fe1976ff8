-- Takes rooms out of a part of the index, unless they were used meanwhile.
--
-- KEYS[1] index: as in index.lua
-- ARGV[1] for how many seconds a room is kept after its last use
-- ARGV[2] and all that follow: rooms that have no epoch any more
--
-- Reply: how many were taken out.

local oldest = string.format('%.0f', redis.call('TIME')[1] - ARGV[1])
local old = {}
for _, room in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', oldest)) do
  old[room] = true
end
local gone = 0
for at = 2, #ARGV do
  if old[ARGV[at]] then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[at])
  end
end
return gone
