-- What is known under idempotency keys, see store/once.py. ONCE is the hash's key, ONCE_TTL and ONCE_KEPT its limits.
--
-- DIGEST → {"n":NUMBER,"at":TIME,what came of it}; body:DIGEST → the answer; n → the newest number; #NUMBER → DIGEST

local ONCE

local function recalled(key, now)
  local record = redis.call('HGET', ONCE, key)
  if record then
    local at, outcome = string.match(record, '^{"n":%d+,"at":([%d.]+),(.*)$')
    if at and tonumber(now) < tonumber(at) + ONCE_TTL then
      return record, outcome
    end
  end
end

local function forget(number)
  local name = '#' .. string.format('%d', number)
  local key = redis.call('HGET', ONCE, name)
  if key then
    redis.call('HDEL', ONCE, name)
    -- The same key may have been used anew, after its time: then it is another record's by now.
    if string.find(redis.call('HGET', ONCE, key) or '', string.format('{"n":%d,', number), 1, true) == 1 then
      redis.call('HDEL', ONCE, key, 'body:' .. key)
    end
  end
end

-- `outcome`: JSON without its opening brace.
local function remember(key, now, outcome)
  local number = redis.call('HINCRBY', ONCE, 'n', 1)
  redis.call('HDEL', ONCE, 'body:' .. key)
  redis.call('HSET', ONCE, key, string.format('{"n":%d,"at":%s,', number, now) .. outcome,
    '#' .. string.format('%d', number), key)
  forget(number - ONCE_KEPT)
  redis.call('PEXPIREAT', ONCE, string.format('%d', math.floor((tonumber(now) + ONCE_TTL) * 1000)))
end
