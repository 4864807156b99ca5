-- What is known under an idempotency key; what is given is kept where nothing is.
--
-- KEYS  1 the hash of once.lua
-- ARGV  1 the key's digest  2 what came of it (JSON without its opening brace), or "" to look only  3 the answer, or ""
--
-- Answers {record, answer or ""} as they stand then, or {}.

ONCE = KEYS[1]
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local record, outcome = recalled(ARGV[1], now)
if not record and ARGV[2] ~= '' then
  remember(ARGV[1], now, ARGV[2])
  record, outcome = recalled(ARGV[1], now)
end
if not record then
  return {}
end
local name = 'body:' .. ARGV[1]
if ARGV[3] ~= '' and outcome == ARGV[2] and redis.call('HEXISTS', ONCE, name) == 0 then
  redis.call('HSET', ONCE, name, ARGV[3])
end
return {record, redis.call('HGET', ONCE, name) or ''}
