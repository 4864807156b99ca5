-- Turns are about to begin: may their sessions go where an order says, or else to the active color? Only where every
-- registered node has applied the state that says so, and none has a turn of the session under way. Else it runs where
-- the session is, and counts as under way from now on: in the same step, so that no other node can find it idle.
--
-- KEYS  3 nodes hash  4 turns hash  5 flips hash  6 the key that is there while nodes may be missing from the list
--       7... the pins' keys
-- ARGV  3 this node's id, "": orders only are carried out, and no turn begins   4... for each turn its serial, and the
--       epoch of the pin that its node knows
--
-- Answers for each turn id and text, or "" and "" where the pin is gone; {"none"} where no pointer stands.

FLIPS = KEYS[5]
local active, epoch = pointed()
if not active then
  return {'none'}
end
local target, node = label(active), ARGV[3]

local nodes = redis.call('HKEYS', KEYS[3])
if node ~= '' and redis.call('HEXISTS', KEYS[3], node) == 0 then
  nodes[#nodes + 1] = node
end
if redis.call('EXISTS', KEYS[6]) == 1 then
  nodes[#nodes + 1] = '?' -- of whom nothing is known
end
-- The lowest epoch and revision that any of them routes by.
local low_epoch, low_revision = math.huge, math.huge
for _, name in ipairs(nodes) do
  local applied, at = string.match(redis.call('HGET', KEYS[4], 'e' .. name) or '', '^(%d+) (%d+)$')
  low_epoch = math.min(low_epoch, tonumber(applied or '0'))
  low_revision = math.min(low_revision, tonumber(at or '0'))
end

local orders = {}
for _, order in ipairs(cjson.decode(redis.call('HGET', KEYS[1], 'orders') or '[]')) do
  local raw = string.gsub(order.pin, '%x%x', function(hex) return string.char(tonumber(hex, 16)) end)
  orders[raw] = order
end

-- The order that is still to be carried out for a pin, or nil.
local function ordered(pin)
  local order = orders[pin.id]
  if order and order.created == tonumber(pin.created) and label(order.color) == order.release
    and (pin.color ~= order.color or pin.release ~= order.release) then
    return order
  end
end

local function idle(pin)
  for _, name in ipairs(nodes) do
    if redis.call('HEXISTS', KEYS[4], 't' .. pin.id .. name) == 1 then
      return false
    end
  end
  return true
end

-- Where the pin is to go, and whether all nodes know that. Whoever has decided on an older one decides anew.
local function goal(pin, decided)
  local order = ordered(pin)
  if order then
    return order.color, order.release, low_revision >= order.revision
  elseif node ~= '' and tonumber(pin.epoch) < tonumber(epoch) and tonumber(pin.epoch) <= tonumber(decided) then
    return active, target, low_epoch >= tonumber(epoch)
  end
end

-- A turn of it is under way on this node. What was asked long ago, before the node said all anew, begins nothing.
local said = tonumber(redis.call('HGET', KEYS[4], 's' .. node) or '0')
local function begin(pin, serial)
  local field = 't' .. pin.id .. node
  if tonumber(serial) >= math.max(said, tonumber(redis.call('HGET', KEYS[4], field) or '0')) then
    redis.call('HSET', KEYS[4], field, serial)
  end
end

local answer = {}
for turn, id in ipairs(ids(7, #KEYS)) do
  local pin = find(id)
  if pin and (node == '' or pin.id == id) then
    local color, release, everywhere = goal(pin, ARGV[3 + 2 * turn])
    if node ~= '' and label(pin.color) ~= pin.release then
      moved(pin, color or active, color and release or target, epoch) -- its release is not there any more
    elseif color == pin.color and release == pin.release then
      pin.epoch = epoch -- it stays, and is asked about no more before the next flip
      keep(pin)
    elseif color and everywhere and idle(pin) then
      moved(pin, color, release, epoch)
    elseif color and node ~= '' then
      begin(pin, ARGV[2 + 2 * turn])
    end
  end
  answer[#answer + 1] = pin and pin.id or ''
  answer[#answer + 1] = pin and text(pin) or ''
end
ring_all()
return answer
