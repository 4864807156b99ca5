-- A node is registered no more. Answers whether it was, and is not any more.
--
-- KEYS  1 nodes hash   2 held hash   3 the key that says that this node is dead
-- ARGV  1 node id   2 the serial of the beat that must be its last, or ""   3 seconds for which it is dead, or ""

if ARGV[3] ~= '' then
  redis.call('SET', KEYS[3], '1', 'EX', ARGV[3])
end
local report = redis.call('HGET', KEYS[1], ARGV[1])
if not report or (ARGV[2] ~= '' and (string.match(report, '"serial":(%d+)') or '0') ~= ARGV[2]) then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
