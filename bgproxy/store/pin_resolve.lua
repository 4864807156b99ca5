-- Each session's pin: the first that one of its keys leads to, else a new one on the pointer that stands.
--
-- KEYS  3... the keys of all sessions, one session after the other
-- ARGV  3 the lowest epoch by which a pin may be made: a pointer below it is one that has lost a flip
--       for each session from 4 on: how many keys, ttl, max_age, route, preset, offered color, offered upstream,
--       "" or the pin to be written again where there is none: its raw id and its text, then "", the color on which a
--       new one is to be made, or "*" for the canary's
--
-- Answers {time, then for each: id, text, created, aliases, conflicts}, or {} where a pin would have to be made and no
-- pointer stands, or none that may make it; then nothing is written. The id is "" where a pause holds new sessions.

local standing = redis.call('HMGET', KEYS[1], 'pointer', 'pause', 'canary') -- at once: each call costs
pointer = standing[1] and cjson.decode(standing[1]) or nil
local paused = (standing[2] or 'null') ~= 'null'
local canary = (standing[3] or 'null') ~= 'null' and cjson.decode(standing[3])

-- Where a new session of that id begins by the pointer: its color, or the canary's. See rules/canary.py.
local function place(id, wish)
  local color, epoch = pointed()
  if wish ~= '' and wish ~= '*' then
    return label(wish) ~= '' and wish or color, epoch
  end
  if canary and string.format('%d', canary.epoch) == epoch and label(canary.color) == canary.release then
    local a, b, c, d = string.byte(id, 1, 4)
    if wish == '*' or ((a * 256 + b) * 256 + c) * 256 + d < canary.below then
      color = canary.color
    end
  end
  return color, epoch
end

-- Whether the pointer that stands may make pins, and if not, whether one would have to be made.
local function is_lacking()
  local color, epoch = pointed()
  if color and tonumber(epoch) >= tonumber(ARGV[3]) then
    return false
  end
  local at = 3
  for arg = 4, #ARGV, 9 do
    local found = ARGV[arg + 7] ~= ''
    for _, id in ipairs(ids(at, at + ARGV[arg] - 1)) do
      found = found or find(id) ~= nil
    end
    if not found then
      return true
    end
    at = at + ARGV[arg]
  end
  return false
end
if is_lacking() then
  return {}
end

local answer, at = {string.format('%.6f', now)}, 3
for arg = 4, #ARGV, 9 do
  local ttl, max_age, was, wish = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 7], ARGV[arg + 8]
  local mine = ids(at, at + ARGV[arg] - 1)
  at = at + ARGV[arg]

  local pin
  for _, id in ipairs(mine) do
    pin = pin or find(id)
  end
  local created = pin == nil
  if pin then
    if pin.ttl ~= ttl or pin.max_age ~= max_age then -- the configuration has changed
      pin.ttl, pin.max_age = ttl, max_age
      keep(pin)
    end
    use(pin)
  end

  if not pin and was ~= '' then
    local old = parse(string.sub(was, 1, 16), string.sub(was, 17))
    old.ttl, old.max_age = ttl, max_age
    if expiry(tonumber(old.created), tonumber(ttl), tonumber(max_age)) > now then
      -- Under one of its keys, so that whoever asked finds it; the old id may be among the others.
      local id = mine[1]
      for _, candidate in ipairs(mine) do
        id = candidate == old.id and candidate or id
      end
      old.id = id
      pin = create(old)
    end
  end
  if not pin then
    local color, epoch = place(mine[1], wish)
    pin = not paused and create({id = mine[1], color = color, release = label(color), epoch = epoch,
      created = string.format('%.3f', now), ttl = ttl, max_age = max_age, moved = '0', preset = ARGV[arg + 4],
      route = ARGV[arg + 3], upstream = ARGV[arg + 5] == color and ARGV[arg + 6] or ''})
  end

  if pin then
    local aliases, conflicts = lead_all(mine, pin)
    for _, value in ipairs({pin.id, text(pin), created and 1 or 0, aliases, conflicts}) do
      answer[#answer + 1] = value
    end
  else
    for _ = 1, 5 do
      answer[#answer + 1] = ''
    end
  end
end
return answer
