-- Notes a node's sign of life, and says which nodes live.
--
-- KEYS[1] nodes: a sorted set of nodes by the time of their last sign, in milliseconds
-- ARGV[1] the node; empty: none
-- ARGV[2] after how many milliseconds of silence a node counts as gone
-- ARGV[3] for how many milliseconds this sign counts
--
-- Reply: the nodes that live.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now - tonumber(ARGV[2]) + tonumber(ARGV[3]), ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
-- The clock has gone back, or another one has written: it would be taken for alive.
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + 3600000, '+inf')
redis.call('PEXPIRE', KEYS[1], 10 * tonumber(ARGV[2]))
return redis.call('ZRANGE', KEYS[1], 0, -1)
