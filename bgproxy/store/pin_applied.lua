-- A node routes by an epoch, and these turns are under way on it; this replaces what it said before. What nodes that
-- are not listed any more have said is swept.
--
-- KEYS  1 nodes hash  2 turns hash
-- ARGV  1 the node's id  2 epoch   then for each turn: the pin's raw id, the turn's serial

for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local turn = string.sub(field, 1, 1) == 't'
  local node = string.sub(field, turn and 18 or 2)
  if (turn and node == ARGV[1]) or (node ~= ARGV[1] and redis.call('HEXISTS', KEYS[1], node) == 0) then
    redis.call('HDEL', KEYS[2], field)
  end
end
redis.call('HSET', KEYS[2], 'e' .. ARGV[1], ARGV[2])
for at = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], 't' .. ARGV[at] .. ARGV[1], ARGV[at + 1])
end
return 1
