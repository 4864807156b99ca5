-- Turns are over, unless a later one of the same session has taken their place.
--
-- KEYS  1 turns hash
-- ARGV  1 the node's id   then for each turn: the pin's raw id, the turn's serial

for at = 2, #ARGV, 2 do
  local field = 't' .. ARGV[at] .. ARGV[1]
  if redis.call('HGET', KEYS[1], field) == ARGV[at + 1] then
    redis.call('HDEL', KEYS[1], field)
  end
end
return 1
