-- A node holds new admissions at a revision. When it is the last one of which that was awaited, the bell rings.
--
-- KEYS  1 held hash: by node, and under "" the newest revision of all   2 nodes hash
-- ARGV  1 node id   2 revision   3 the bell's channel
--
-- Answers how many nodes are registered.

local newest = tonumber(redis.call('HGET', KEYS[1], '') or '0')
if tonumber(ARGV[2]) > newest then -- what was said of an earlier state is said again of this one
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '', ARGV[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])

local registered = redis.call('HLEN', KEYS[2])
if redis.call('HLEN', KEYS[1]) > registered then -- so only now one by one
  local all = true
  for _, node in ipairs(redis.call('HKEYS', KEYS[2])) do
    all = all and tonumber(redis.call('HGET', KEYS[1], node) or '0') >= tonumber(ARGV[2])
  end
  if all then
    redis.call('PUBLISH', ARGV[3], ARGV[2])
  end
end
return registered
