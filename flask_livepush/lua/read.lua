-- Says where a room stands, and reads what it has after a position.
--
-- Begins with room.lua.
--
-- ARGV[3] the epoch of the position; empty: only where the room stands
-- ARGV[4] the offset of the position
--
-- Reply: the epoch, the offset, 1 if everything after the position follows or 0, and a
-- list of the records.

if redis.call('PTTL', meta) < (offset > 0 and keep or keep_idle) - 600000 then
  redis.call('PEXPIRE', meta, offset > 0 and keep or keep_idle)
end
local missed = offset - (tonumber(ARGV[4]) or 0)
if ARGV[3] ~= epoch or missed < 0 then
  return {epoch, offset, 0}
end
if missed == 0 then
  return {epoch, offset, 1, {}}
end
local records = redis.call('LRANGE', log, -missed, -1)
local stamped = #records == missed and tonumber(string.match(records[1], '^%d+ (%d+) '))
if not stamped or now - stamped > ttl then
  return {epoch, offset, 0}
end
return {epoch, offset, 1, records}
