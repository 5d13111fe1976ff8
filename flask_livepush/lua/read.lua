-- Says where a room stands, and reads what it has after a position.
--
-- Begins with room.lua.
--
-- A room that has no epoch yet has a position all the same: `none.<when, in ms>.<server>.
-- <token>`, of this server's clock and its replication id. It says that there was nothing
-- at that time, and everything of an epoch that has begun since, from 1 on, follows it.
-- The token is the index's, for the caller to compare: what all rooms were told meanwhile
-- was not told to one that was none.
--
-- ARGV[3] the epoch of the position; empty: only where the room stands
-- ARGV[4] the offset of the position
-- ARGV[5] an epoch that may have missed what all rooms were told: it ends, unless it has
--         begun just now; empty: none
--
-- Reply: the epoch, the offset, 1 if everything after the position follows or 0, a list
-- of the records, what is to be told of it (the flags of room.lua), and how old the epoch
-- is, in milliseconds. Without an epoch it is empty, the list has the time and the
-- server, and the rest is 0.

if not epoch then
  return {'', 0, 0, {string.format('%.0f', now), string.sub(server, 1, 12)}, 0, 0}
end
if ARGV[5] ~= '' and ARGV[5] == epoch and ARGV[1] ~= '' and now - (born or now) > 10000 then
  begin()
end
local age = now - (born or now)
if ARGV[1] ~= '' and redis.call('PTTL', meta) < (offset > 0 and keep or keep_idle) - 600000 then
  redis.call('PEXPIRE', meta, offset > 0 and keep or keep_idle)
end
local follows = ARGV[3] == epoch
local when, of = string.match(ARGV[3], '^none%.(%d+)%.(%w*)%.[%w_-]+$')
if number(when) then
  when = number(when)
  -- An epoch that has begun and ended meanwhile would have lasted for longer than that.
  local oldest_in, oldest = string.match(redis.call('HGET', meta, 'oldest') or '', '^(%S+) (%d+)$')
  oldest = oldest_in == epoch and number(oldest) or now - age
  follows = of == string.sub(server, 1, 12) and oldest >= when and now - when <= keep_idle
end
local missed = offset - (tonumber(ARGV[4]) or 0)
if not follows or missed < 0 then
  return {epoch, offset, 0, {}, flagged(), age}
end
if missed == 0 then
  return {epoch, offset, 1, {}, flagged(), age}
end
local records = redis.call('LRANGE', log, -missed, -1)
local stamped = #records == missed and number(string.match(records[1], '^%d+ (%d+) '))
if not stamped or now - stamped > ttl then
  return {epoch, offset, 0, {}, flagged(), age}
end
return {epoch, offset, 1, records, flagged(), age}
