-- A node routes by a state, and these turns are under way on it. Answers whether anything was known of the node.
--
-- KEYS  1 nodes hash  2 turns hash
-- ARGV  1 the node's id  2 epoch and revision of that state
--       3 1: this replaces all that it said before, and what nodes that are not listed any more have said is swept
--       4 the serial at which it says so   5... for each turn: the pin's raw id, the turn's serial

local own, said = 'e' .. ARGV[1], 's' .. ARGV[1]
local known = redis.call('HEXISTS', KEYS[2], own)
if tonumber(ARGV[4]) < tonumber(redis.call('HGET', KEYS[2], said) or '0') then
  return known -- it comes late: all was said anew since
end
if ARGV[3] == '1' then
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    local node = string.sub(field, string.sub(field, 1, 1) == 't' and 18 or 2)
    if node == ARGV[1] or redis.call('HEXISTS', KEYS[1], node) == 0 then
      redis.call('HDEL', KEYS[2], field)
    end
  end
  redis.call('HSET', KEYS[2], said, ARGV[4])
end
for at = 5, #ARGV, 2 do
  local field = 't' .. ARGV[at] .. ARGV[1]
  if tonumber(redis.call('HGET', KEYS[2], field) or '0') < tonumber(ARGV[at + 1]) then
    redis.call('HSET', KEYS[2], field, ARGV[at + 1])
  end
end
if known == 1 or ARGV[3] == '1' then -- else its turns from before are not known
  redis.call('HSET', KEYS[2], own, ARGV[2])
end
return known
