-- Enters the fingerprints of a process's secret keys, unless others live and none of
-- these does. It is one step: of two processes with different keys one is the first.
--
-- KEYS[1] secrets: a sorted set of fingerprints by the time of their last sign of life,
--         in milliseconds
-- ARGV[1] after how many milliseconds of silence a fingerprint is forgotten
-- ARGV[2] and all that follow: the fingerprints
--
-- Reply: 1 if they are entered, 0 if they are not.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]))

local known = redis.call('ZRANGE', KEYS[1], 0, -1)
local shared = #known == 0
for _, fingerprint in ipairs(known) do
  for at = 2, #ARGV do
    shared = shared or ARGV[at] == fingerprint
  end
end
if not shared then
  return 0
end
for at = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now, ARGV[at])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
