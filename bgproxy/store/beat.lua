-- A node's report, stamped with the time of this Redis; the living sweep away the dead.
--
-- KEYS  1 nodes hash
-- ARGV  1 node id   2 its report: a JSON object without its closing brace   3 seconds until a silent node is forgotten

local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ',"at":' .. now .. '}')

local reports = redis.call('HGETALL', KEYS[1])
for i = 1, #reports, 2 do
  local at = tonumber(string.match(reports[i + 1], '"at":([%d.]+)}$') or '0')
  -- A report from the future came before this clock was set back: its node has reported since, or is dead.
  if math.abs(tonumber(now) - at) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], reports[i])
  end
end
return now
