-- Changes one node's users in one room, as one step.
--
-- KEYS[1] here: a hash of
--   version                the list's, <epoch>:<number>, which grows with each change
--   <node>NUL<user>        what is known of a user that a node has here
--   NUL<user>              how many nodes have the user here
-- ARGV[1] the epoch to begin if one has to begin
-- ARGV[2] how long the list is kept, in milliseconds
-- ARGV[3] the node
-- ARGV[4] how many users enter; a user and its information each follow, then the users
--         that leave
--
-- Reply: the version before ('' if there was none), the version after, the users that
-- no node had before, the users that no node has any more.

local here, node = KEYS[1], ARGV[3] .. '\0'
local was = redis.call('HGET', here, 'version') or ''
local joined, left, changed = {}, {}, false
local first_left = 5 + 2 * tonumber(ARGV[4])

-- What others have written here is not believed: the list begins anew, and every node
-- that finds another version enters its users again.
local broken = was ~= '' and not (string.match(was, '^[%w_-]+:%d+$') and #was <= 64)
if was ~= '' and #(string.match(was, ':(%d+)$') or '') > 15 then
  broken = true
end
for at = 5, #ARGV do
  if at >= first_left or at % 2 == 1 then
    local nodes = redis.call('HGET', here, '\0' .. ARGV[at])
    if nodes and not string.match(nodes, '^[1-9]%d?%d?%d?%d?%d?$') then
      broken = true
    end
  end
end
if broken then
  redis.call('DEL', here)
  was = ''
end

for at = 5, first_left - 1, 2 do
  local user, info = ARGV[at], ARGV[at + 1]
  local known = redis.call('HGET', here, node .. user)
  if known ~= info then
    redis.call('HSET', here, node .. user, info)
    changed = true
  end
  if not known and redis.call('HINCRBY', here, '\0' .. user, 1) == 1 then
    joined[#joined + 1] = user
  end
end
for at = first_left, #ARGV do
  local user = ARGV[at]
  if redis.call('HDEL', here, node .. user) == 1 then
    changed = true
    if redis.call('HINCRBY', here, '\0' .. user, -1) < 1 then
      redis.call('HDEL', here, '\0' .. user)
      left[#left + 1] = user
    end
  end
end

local version = was
if changed then
  local epoch, number = string.match(was, '^([^:]+):(%d+)$')
  version = (epoch or ARGV[1]) .. ':' .. string.format('%.0f', (tonumber(number) or 0) + 1)
  if redis.call('HLEN', here) == 1 and was ~= '' then
    redis.call('DEL', here)
  else
    redis.call('HSET', here, 'version', version)
  end
end
redis.call('PEXPIRE', here, ARGV[2])
return {was, version, joined, left}
