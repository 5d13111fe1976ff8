-- Accepts the drafts of one commit in one room.
--
-- Begins with room.lua. The rules are those of protocol/history.py: a row's version
-- that is not above its last is dropped, one that can't be compared any more becomes
-- <kind>.invalidated, which is told once.
--
-- After Redis has lost its memory, all that processes have in their queues can't be
-- compared, and each commit would let all screens read everything anew. One telling
-- does for many:
--
-- 1. P and Q commit rows of a kind, and what they have to say waits.
-- 2. P's <kind>.invalidated gets the offset n at the time t.
-- 3. Whoever has a position of n or later has read its snapshot after t, since the
--    position is read before the snapshot is begun; whoever has an earlier one is given
--    n, and reads a snapshot after t. So everybody sees what was committed before t.
-- 4. What Q's queue has had since before t says nothing new: if it is no more than
--    <kind>.invalidated itself, it is dropped. Its rows' stamps are kept all the same,
--    so that an older version of the same row, which has not waited and comes later, is
--    not taken for new.
--
-- An application's own events are not stale, whatever was told, and stay in order.
--
-- KEYS[3] rows: a hash of <kind>NUL<key> to the row's last stamp
-- KEYS[4] seen: the same rows in a sorted set, by when they were last judged (in
--         microseconds, and one more for each row of a commit, to keep their order)
-- KEYS[5] fences: a hash of senders to the turn before which nothing is taken from them
-- ARGV[3] PUBLISH or SPUBLISH        ARGV[4] the channel
-- ARGV[5] publications that are kept ARGV[6] rows that are remembered
-- ARGV[7] bytes of a message, above which another one begins
-- ARGV[8] the commit's id, or -      ARGV[9] 1 if it was published before without answer
-- ARGV[10] how long ago the commit was, in milliseconds, at most
-- ARGV[11] how long it was in a queue: so long ago the commit was at least; -1 in none
-- ARGV[12] the sender                ARGV[13] its turn: how often it had no answer
-- ARGV[14…] five for each draft: event, data, kind, key, stamp; a draft that is never
--          suppressed has an empty stamp
--
-- Reply: the epoch, the offset of the last publication, how many drafts were dropped as
-- stale (-1 if nothing was taken, since the sender has published again what this may
-- be), how old the epoch is, in milliseconds, if rows were taken for committed in it (-1
-- if that makes no difference), what is to be told of it (the flags of room.lua), and the
-- sender's fence, if nothing was taken.

local rows, seen, fences = KEYS[3], KEYS[4], KEYS[5]
local size, max_rows, max_message = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local id, again, waited, queued = ARGV[8], ARGV[9] == '1', tonumber(ARGV[10]), tonumber(ARGV[11])
local sender, turn = ARGV[12], tonumber(ARGV[13])

-- What can fail does so before anything is written: another type of key, full memory.
redis.call('LLEN', log)
redis.call('HSET', meta, 'server', server)

local fence = number(redis.call('HGET', fences, sender))
if fence and turn < fence then
  return {epoch, offset, -1, -1, flagged(), fence}
end
local age = born and now - born or -1
if again then
  redis.call('HSET', fences, sender, turn)
  redis.call('PEXPIRE', fences, math.max(ttl, 600000))
  for _, record in ipairs(redis.call('LRANGE', log, 0, -1)) do
    if string.match(record, '^%d+ %d+ %d %S+ %d+ %d+ (%S+)\n') == id then
      return {epoch, offset, 0, age, flagged(), 0}
    end
  end
end
if flags[BEGUN] then
  -- Whoever was here when the room had no epoch may have seen a newer version of what was
  -- committed before that.
  redis.call('HSET', meta, 'oldest', epoch .. ' ' .. string.format('%.0f', now - waited))
end
-- What is remembered of rows does not reach back to the commit: a newer version may
-- have been published before. An epoch that begins now is nobody's yet.
local forgotten = born and age < waited
if forgotten then
  age = -1
end

-- Returns a stamp that is remembered; nil: it is none, or lies a year ahead of the clock
-- and of the version at hand, so that no version would be above it.
local YEAR = 366 * 24 * 3600 * 1000000
local function remembered(text, version)
  local stamp = number(text)
  if stamp and stamp > version + YEAR and stamp > now * 1000 + YEAR then
    return nil
  end
  return stamp
end

local function raise(field, stamp)
  local stored = redis.call('HGET', meta, field)
  local old = remembered(stored, tonumber(stamp) or 0)
  if stored and not old then
    flags[HEALED] = true
    local kind = string.match(field, '^top:(.*)$')
    if kind then
      -- The highest is not known: what is not above this one can't be compared.
      redis.call('HSET', meta, 'floor:' .. kind, stamp)
    end
  end
  -- What is no stamp is kept as such: whoever compares with it finds out.
  if not old or not number(stamp) or tonumber(stamp) > old then
    redis.call('HSET', meta, field, stamp)
  end
end

local function forget(row)
  local stamp = redis.call('HGET', rows, row)
  redis.call('HDEL', rows, row)
  redis.call('ZREM', seen, row)
  if stamp then
    raise('floor:' .. (string.match(row, '^(.-)%z') or ''), stamp)
  end
end

local function recall()
  if redis.call('HLEN', rows) == 0 or redis.call('ZCARD', seen) == 0 then
    -- Expired, evicted or never there: all that was remembered is forgotten.
    redis.call('DEL', rows, seen)
    local fields = redis.call('HGETALL', meta)
    for i = 1, #fields, 2 do
      local kind = string.match(fields[i], '^top:(.*)$')
      if kind then
        redis.call('HDEL', meta, fields[i])
        raise('floor:' .. kind, fields[i + 1])
      end
    end
  end
  local old = redis.call('ZRANGEBYSCORE', seen, '-inf', '(' .. string.format('%.0f', (now - ttl) * 1000), 'LIMIT', 0, 200)
  for _, row in ipairs(old) do
    forget(row)
  end
end

-- Returns whether the version is newer than what was shown; nil: nobody knows.
local turn = time[1] * 1000000 + time[2]
local function judge(kind, key, stamp)
  local row = kind .. '\0' .. key
  turn = turn + 1
  local stored = redis.call('HGET', rows, row)
  local last = remembered(stored, tonumber(stamp))
  if last and tonumber(stamp) <= last then
    redis.call('ZADD', seen, string.format('%.0f', turn), row)
    return false
  end
  if not last then
    local lowest = redis.call('HGET', meta, 'floor:' .. kind)
    local floor = remembered(lowest, tonumber(stamp))
    if lowest and not floor then
      flags[HEALED] = true
      redis.call('HSET', meta, 'floor:' .. kind, stamp)
      return nil
    end
    if floor and tonumber(stamp) <= floor then
      return nil
    end
  end
  redis.call('HSET', rows, row, stamp)
  redis.call('ZADD', seen, string.format('%.0f', turn), row)
  raise('top:' .. kind, stamp)
  if redis.call('ZCARD', seen) > max_rows then
    forget(redis.call('ZRANGE', seen, 0, 0)[1])
  end
  if stored and not last then
    flags[HEALED] = true
    return nil
  end
  return true
end

-- Returns whether the room was told that a kind is stale while the commit waited.
local function is_told(kind)
  if queued < 0 then
    return false
  end
  local last = redis.call('HGET', meta, 'told:' .. kind)
  if not last or string.sub(last, 1, #epoch + 1) ~= epoch .. ' ' then
    return false
  end
  local when = number(string.sub(last, #epoch + 2))
  return when and when >= now - queued and when <= now
end

local accepted, told, judged, stale = {}, {}, false, 0
for i = 14, #ARGV, 5 do
  local event, data, kind, key, stamp = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local newer = true
  if stamp ~= '' then
    if not judged then
      recall()
      judged = true
    end
    newer = judge(kind, key, stamp)
    stale = stale + (newer == false and 1 or 0)
    if newer == nil or (newer and forgotten) then
      newer = not is_told(kind)
      if newer then
        redis.call('HSET', meta, 'told:' .. kind, epoch .. ' ' .. string.format('%.0f', now))
      end
      event, data, kind, key, stamp = kind .. '.invalidated', '{}', '', '', ''
    end
  elseif data == '{}' and string.sub(event, -12) == '.invalidated' then
    newer = not is_told(string.sub(event, 1, -13))
  end
  if newer ~= false and string.sub(event, -12) == '.invalidated' then
    local draft = table.concat({event, data, kind, key, stamp}, '\0')
    newer = not told[draft] and newer
    told[draft] = true
  end
  if newer ~= false then
    accepted[#accepted + 1] = {event, data, stamp == '' and '-' or stamp}
  end
end
if judged then
  redis.call('PEXPIRE', rows, ttl)
  redis.call('PEXPIRE', seen, ttl)
end

local count = #accepted
if count == 0 then
  return {epoch, offset, stale, age, flagged(), 0}
end

local stamped = string.format('%.0f', now)
local records = {}
for i, draft in ipairs(accepted) do
  local event, data = draft[1], draft[2]
  records[i] = string.format('%.0f', offset + i) .. ' ' .. stamped .. ' ' .. (i < count and 1 or 0) .. ' ' .. draft[3] .. ' ' .. #event .. ' ' .. #data .. ' ' .. (i < count and '-' or id) .. '\n' .. event .. data
end

local last = string.format('%.0f', offset + count)
redis.call('HSET', meta, 'offset', last, 'least', epoch .. ' ' .. last)
redis.call('PEXPIRE', meta, keep)
if size > 0 then
  for i = math.max(1, count - size + 1), count, 1000 do
    redis.call('RPUSH', log, unpack(records, i, math.min(i + 999, count)))
  end
  redis.call('LTRIM', log, -size, -1)
  redis.call('PEXPIRE', log, ttl)
end

local first, bytes = 1, 0
for i = 1, count do
  bytes = bytes + #records[i]
  if i == count or bytes + #records[i + 1] > max_message then
    redis.call(ARGV[3], ARGV[4], epoch .. '\n' .. table.concat(records, '', first, i))
    first, bytes = i + 1, 0
  end
end
return {epoch, offset + count, stale, age, flagged(), 0}
