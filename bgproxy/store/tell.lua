-- Keep what a node tells of a topic.
--
-- KEYS  1 the topic's hash
-- ARGV  1 node id   2 text   3 seconds for which the topic is kept from now on

local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[1], math.floor(time[1] * 1000 + time[2] / 1000 + ARGV[3] * 1000))
return 1
