-- A node holds new admissions at a revision. When it is the last one of which that was awaited, the bell rings.
--
-- KEYS  1 held hash   2 nodes hash
-- ARGV  1 node id   2 revision   3 the bell's channel
--
-- Answers how many nodes are registered.

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local nodes, all = redis.call('HKEYS', KEYS[2]), true
for _, node in ipairs(nodes) do
  all = all and tonumber(redis.call('HGET', KEYS[1], node) or '0') >= tonumber(ARGV[2])
end
if all then
  redis.call('PUBLISH', ARGV[3], ARGV[2])
end
return #nodes
