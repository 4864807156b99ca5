-- What all scripts on pins begin with: reading, writing, counting. Written once, sent in front of each of them.
--
-- KEYS  1 state hash   2 counts hash   then what the script says, the keys of pins and aliases last
-- ARGV  1 what the name of a pin's key begins with   2 the pins' channel   then what the script says
--
-- An alias names its pin, whose key nobody could have passed in KEYS: it shares their hash tag, and so their slot.
-- A script that moves pins names the flips' hash in FLIPS.
--
-- A pin is written whole: color, release, epoch, created, ttl, max_age, moved, expiry, preset, route, upstream, parted
-- by tabs, then the raw ids of its newest aliases. Expiries are unix seconds; see bgproxy/rules/pin.py.

local PREFIX, CHANNEL, COUNTS = ARGV[1], ARGV[2], KEYS[2]
local KEPT_ALIASES, BUCKETS_PER_TTL = 8, 60
local FIELDS = '^' .. string.rep('([^\t]*)\t', 11) .. '(.*)$'

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local pins, rung = {}, {}

local function expiry(created, ttl, max_age)
  local due, bucket = now + ttl, math.max(1, math.ceil(ttl / BUCKETS_PER_TTL))
  if max_age > 0 then
    due = math.min(due, created + max_age)
  end
  return math.ceil(due / bucket) * bucket
end

local function parse(id, text)
  local pin = {id = id}
  pin.color, pin.release, pin.epoch, pin.created, pin.ttl, pin.max_age, pin.moved, pin.expires, pin.preset, pin.route,
    pin.upstream, pin.aliases = string.match(text, FIELDS)
  pin.expires = tonumber(pin.expires) or 0
  return pin
end

local function text(pin)
  return table.concat({pin.color, pin.release, pin.epoch, pin.created, pin.ttl, pin.max_age, pin.moved,
    string.format('%d', pin.expires), pin.preset, pin.route, pin.upstream, pin.aliases}, '\t')
end

-- The pin that a key leads to, or nil. One pin is one table throughout a script.
local function find(id)
  if pins[id] then
    return pins[id]
  end
  local found = redis.call('GET', PREFIX .. id)
  if found and string.sub(found, 1, 1) == '@' then
    id = string.sub(found, 2)
    if pins[id] then
      return pins[id]
    end
    found = redis.call('GET', PREFIX .. id)
  end
  if not found or string.sub(found, 1, 1) == '@' then
    return nil
  end
  local pin = parse(id, found)
  if pin.expires <= now then
    return nil
  end
  pins[id] = pin
  return pin
end

local function keep(pin)
  redis.call('SET', PREFIX .. pin.id, text(pin))
  redis.call('PEXPIREAT', PREFIX .. pin.id, string.format('%d', pin.expires * 1000))
end

local function count(pin, by)
  local field = table.concat({pin.color, pin.release, string.format('%d', pin.expires)}, '\t')
  local counted = redis.call('HINCRBY', COUNTS, field, by)
  if counted <= 0 then
    redis.call('HDEL', COUNTS, field)
  elseif counted == 1 and by == 1 then
    -- A bucket begins: whoever begins one sweeps those that are over, so there are never many.
    for _, old in ipairs(redis.call('HKEYS', COUNTS)) do
      if tonumber(string.match(old, '%d+$') or '0') <= now then
        redis.call('HDEL', COUNTS, old)
      end
    end
  end
end

local function create(pin)
  pin.aliases = ''
  pin.expires = expiry(tonumber(pin.created), tonumber(pin.ttl), tonumber(pin.max_age))
  pins[pin.id] = pin
  count(pin, 1)
  keep(pin)
  return pin
end

-- Prolong the pin, and with it the aliases that live as long as it does.
local function use(pin)
  local expires = expiry(tonumber(pin.created), tonumber(pin.ttl), tonumber(pin.max_age))
  if expires == pin.expires then
    return
  end
  count(pin, -1)
  pin.expires = expires
  count(pin, 1)
  keep(pin)
  for at = 1, #pin.aliases, 16 do
    redis.call('PEXPIREAT', PREFIX .. string.sub(pin.aliases, at, at + 15), string.format('%d', expires * 1000))
  end
end

-- Whether the key is among the aliases that live as long as the pin.
local function lives_along(id, pin)
  for at = 1, #pin.aliases, 16 do
    if string.sub(pin.aliases, at, at + 15) == id then
      return true
    end
  end
  return false
end

-- The key leads to this pin, as the newest of its aliases.
local function lead(id, pin)
  redis.call('SET', PREFIX .. id, '@' .. pin.id)
  redis.call('PEXPIREAT', PREFIX .. id, string.format('%d', pin.expires * 1000))
  if not lives_along(id, pin) then
    pin.aliases = string.sub(pin.aliases .. id, -16 * KEPT_ALIASES)
    keep(pin)
  end
end

-- Lead all keys to the pin that lead nowhere (or to it already): how many were new, how many belong to others.
local function lead_all(ids, pin)
  local aliases, conflicts = 0, 0
  for _, id in ipairs(ids) do
    local standing = find(id)
    if standing == nil then
      aliases = aliases + 1
      lead(id, pin)
    elseif standing ~= pin then
      conflicts = conflicts + 1
    elseif id ~= pin.id and not lives_along(id, pin) then
      lead(id, pin)
    end
  end
  return aliases, conflicts
end

-- Where new sessions go by the pointer that stands: color, epoch; nil where there is no pointer.
local pointer
local function pointed()
  local written = not pointer and redis.call('HGET', KEYS[1], 'pointer')
  if written then
    pointer = cjson.decode(written)
  end
  if pointer then
    return pointer.active, string.format('%d', pointer.epoch)
  end
end

-- The label of what stands on a color; '' where nothing does.
local labels = {}
local function label(color)
  if not labels[color] then
    local release = redis.call('HGET', KEYS[1], 'release:' .. color)
    labels[color] = release and cjson.decode(release).label or ''
  end
  return labels[color]
end

local function ring(pin)
  rung[#rung + 1] = pin.id
end

local FLIPS

local function moved(pin, color, release, epoch)
  local active = pointed()
  local was_left = tonumber(pin.epoch) < tonumber(epoch) and (pin.color ~= active or pin.release ~= label(active))
  if was_left and redis.call('HEXISTS', FLIPS, epoch) == 1 then
    redis.call('HINCRBY', FLIPS, epoch .. ':moved', 1)
  end
  count(pin, -1)
  pin.color, pin.release, pin.upstream, pin.epoch = color, release, '', epoch
  pin.moved = string.format('%d', pin.moved + 1)
  count(pin, 1)
  keep(pin)
  ring(pin)
end

local function ring_all()
  if #rung > 0 then
    redis.call('PUBLISH', CHANNEL, table.concat(rung))
  end
end

local function ids(first, last)
  local found = {}
  for at = first, last do
    found[#found + 1] = string.sub(KEYS[at], #PREFIX + 1)
  end
  return found
end
