-- Turns are about to begin: may their sessions go to the active color? Only where every live node has applied the
-- pointer, and none has a turn of the session under way. Else the turn runs where the session is, and counts as under
-- way from now on: in the same step, so that no other node can find the session idle.
--
-- KEYS  3 nodes hash  4 turns hash  5 flips hash   6... the pins' keys
-- ARGV  3 seconds after which a silent node is not live  4 this node's id   5... the turns' serials
--
-- Answers for each turn id and text, or "" and "" where the pin is gone; {"none"} where no pointer stands.

FLIPS = KEYS[5]
local active, epoch = pointed()
if not active then
  return {'none'}
end
local target, node = label(active), ARGV[4]

local nodes, everywhere = {node}, true
local reports = redis.call('HGETALL', KEYS[3])
for at = 1, #reports, 2 do
  local heard = tonumber(string.match(reports[at + 1], '"at":([%d.]+)}$') or '0')
  if math.abs(now - heard) <= tonumber(ARGV[3]) and reports[at] ~= node then
    nodes[#nodes + 1] = reports[at]
  end
end
for _, name in ipairs(nodes) do
  local applied = redis.call('HGET', KEYS[4], 'e' .. name)
  everywhere = everywhere and applied and tonumber(applied) >= tonumber(epoch)
end

local function idle(pin)
  for _, name in ipairs(nodes) do
    if redis.call('HEXISTS', KEYS[4], 't' .. pin.id .. name) == 1 then
      return false
    end
  end
  return true
end

local answer = {}
for turn, id in ipairs(ids(6, #KEYS)) do
  local pin = find(id)
  if pin and label(pin.color) ~= pin.release then
    moved(pin, active, target, epoch) -- its release is not there any more
  elseif pin and tonumber(pin.epoch) < tonumber(epoch) and pin.color == active then
    pin.epoch = epoch -- it stays, and is asked about no more before the next flip
    keep(pin)
  elseif pin and tonumber(pin.epoch) < tonumber(epoch) then
    if everywhere and idle(pin) then
      moved(pin, active, target, epoch)
    else
      redis.call('HSET', KEYS[4], 't' .. pin.id .. node, ARGV[4 + turn])
    end
  end
  answer[#answer + 1] = pin and pin.id or ''
  answer[#answer + 1] = pin and text(pin) or ''
end
ring_all()
return answer
