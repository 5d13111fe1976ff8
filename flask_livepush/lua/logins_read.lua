-- Reads which logins have ended, and what is to be asked again, since a process last read.
--
-- Begins with logins.lua.
--
-- ARGV[8] the last entry of orders that it has read; empty: it begins with the next
-- ARGV[9] how many entries of each are read at most
--
-- Reply: the epoch; the time, in ms; for how many ms whoever knows nothing itself must
-- not take this for all; 1 if there is more. Then, unless the process knows another
-- epoch: the last entry of ended, and all entries as one text, a line each, the time in
-- ms before it; the last entry of orders, 1 if some may have been missed, and in a list
-- the n and the o of each.

local stamped = string.format('%.0f', now)
local wait = string.format('%.0f', math.max(0, settled - now))
if known ~= '' and known ~= epoch then
  return {epoch, stamped, wait, 0}
end

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then
      return entry[2][i + 1]
    end
  end
  return ''
end

local function since(stream, last)
  return redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', ARGV[9])
end

local entries = since(ended, position == '' and '0-0' or position)
local lines = {}
for i, entry in ipairs(entries) do
  lines[i] = string.match(entry[1], '^%d+') .. ' ' .. field(entry, 'e')
end
local last = #entries > 0 and entries[#entries][1] or position == '' and '0-0' or position
local more = #entries == tonumber(ARGV[9]) and 1 or 0

local asked, told, gap = ARGV[8], {}, 0
local top_order = newest(orders)
if asked == '' then
  asked = top_order
elseif before(asked, trimmed_orders) or before(top_order, asked) and before(trimmed_orders, asked) then
  asked, gap = top_order, 1
else
  local found_orders = since(orders, asked)
  for _, entry in ipairs(found_orders) do
    told[#told + 1] = field(entry, 'n')
    told[#told + 1] = field(entry, 'o')
    asked = entry[1]
  end
  if #found_orders == tonumber(ARGV[9]) then
    more = 1
  end
end
return {epoch, stamped, wait, more, last, table.concat(lines, '\n'), asked, gap, told}
