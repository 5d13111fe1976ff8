-- Writes which logins have ended, and what is to be asked again, and wakes all processes.
--
-- Begins with logins.lua.
--
-- ARGV[8] how many entries of ended are kept at most
-- ARGV[9] how many of orders         ARGV[10] how long those are kept, in milliseconds
-- ARGV[11] the process               ARGV[12] 1: only in the epoch that it knows
-- ARGV[13] how many entries of ended there are; they follow, ~<seconds ago> in place of
--          @<seconds since 1970>; then those of orders
--
-- Reply: the epoch.

if ARGV[12] == '1' and known ~= epoch then
  return epoch
end

local function trim(stream, name, least, most)
  local gone = redis.call('XREVRANGE', stream, '(' .. string.format('%.0f', least) .. '-0', '-', 'COUNT', 1)[1]
  if gone then
    redis.call('HSET', meta, name, gone[1])
    redis.call('XTRIM', stream, 'MINID', '=', string.format('%.0f', least))
  end
  local length = redis.call('XLEN', stream)
  if length > most then
    local excess = math.min(length - most, 1000)
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', excess)
    redis.call('HSET', meta, name, oldest[excess][1])
    redis.call('XTRIM', stream, 'MAXLEN', '=', length - excess)
  end
  redis.call('PEXPIRE', stream, keep)
end

local function dated(age)
  return '@' .. string.format('%.0f', math.floor(now / 1000) - tonumber(age))
end

local first_order = 14 + tonumber(ARGV[13])
local last
for i = 14, first_order - 1 do
  last = redis.call('XADD', ended, '*', 'e', (string.gsub(ARGV[i], '~(%d+)', dated)))
end
if last then
  redis.call('HSET', meta, 'last', last)
  trim(ended, 'ended', now - tonumber(ARGV[4]), tonumber(ARGV[8]))
end
if first_order <= #ARGV then
  for i = first_order, #ARGV do
    redis.call('XADD', orders, '*', 'n', ARGV[11], 'o', ARGV[i])
  end
  trim(orders, 'orders', now - tonumber(ARGV[10]), tonumber(ARGV[9]))
end
redis.call(ARGV[5], ARGV[6], '')
return epoch
