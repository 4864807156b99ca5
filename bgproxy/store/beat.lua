-- A node's report, stamped with the time of this Redis. Only of one that was not registered anything else is looked at,
-- so a beat costs the same however many nodes there are.
--
-- KEYS  1 nodes hash   2 the key that says that this node is dead
-- ARGV  1 node id   2 its report: a JSON object without its closing brace   3 seconds that a node is live after a beat
--       4 5 the schema and the protocol that it speaks
--
-- Answers {"known"}, {"joined"}, or, and then it is not registered, {"dead"} where this beat was long on its way, or
-- {"foreign", time, id, report, ...} of live nodes that speak otherwise.

local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ',"at":' .. now .. '}') == 0 then
  return {'known'}
end

if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return {'dead'}
end

-- A number of a report; a text cannot look like it, as quotes within texts are escaped.
local function number(report, name)
  return string.match(report, '"' .. name .. '":(%d+)') or '0'
end

local foreign, reports = {'foreign', now}, redis.call('HGETALL', KEYS[1])
for i = 1, #reports, 2 do
  local report = reports[i + 1]
  local at = tonumber(string.match(report, '"at":([%d.]+)}$') or '0')
  local speaks_so = number(report, 'schema') == ARGV[4] and number(report, 'protocol') == ARGV[5]
  if math.abs(tonumber(now) - at) <= tonumber(ARGV[3]) and not speaks_so then
    foreign[#foreign + 1] = reports[i]
    foreign[#foreign + 1] = report
  end
end
if #foreign == 2 then
  return {'joined'}
end
redis.call('HDEL', KEYS[1], ARGV[1])
return foreign
