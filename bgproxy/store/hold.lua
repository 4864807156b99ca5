-- A node holds new admissions at a revision. When it is the last one of which that is awaited, the bell rings.
--
-- KEYS  1 held hash: by node, and under "" the newest revision of all   2 nodes hash   3 state hash
-- ARGV  1 node id   2 revision   3 the bell's channel
--       4 "", or: only where the state has that revision and this pointer, and says so; then the state is told
--
-- Answers how many nodes are registered, 0 where the node does not hold by it, and the state's fields, each before its value.

local fields = {}
if ARGV[4] ~= '' then
  fields = redis.call('HGETALL', KEYS[3])
  local state = {}
  for i = 1, #fields, 2 do
    state[fields[i]] = fields[i + 1]
  end
  local is_held = (state.pending or 'null') ~= 'null' or (state.pause or 'null') ~= 'null'
  if not is_held or state.revision ~= ARGV[2] or pointed(state.pointer) ~= ARGV[4] then
    return {0, fields}
  end
end

local newest = tonumber(redis.call('HGET', KEYS[1], '') or '0')
if tonumber(ARGV[2]) > newest then -- what was said of an earlier state is said again of this one
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '', ARGV[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])

-- Who is about to commit knows of itself, and leaves some behind: neither is awaited, see rules/holds.py.
local spared, count = {}, 0
local is_read, pending = pcall(cjson.decode, redis.call('HGET', KEYS[3], 'pending') or 'null')
if is_read and type(pending) == 'table' then
  for _, node in ipairs({pending.node or '', unpack(pending.exclude or {})}) do
    spared[node], count = true, count + 1
  end
end

local registered = redis.call('HLEN', KEYS[2])
if not spared[ARGV[1]] and redis.call('HLEN', KEYS[1]) + count > registered then -- so only now one by one
  local all = true
  for _, node in ipairs(redis.call('HKEYS', KEYS[2])) do
    all = all and (spared[node] or tonumber(redis.call('HGET', KEYS[1], node) or '0') >= tonumber(ARGV[2]))
  end
  if all then
    redis.call('PUBLISH', ARGV[3], ARGV[2])
  end
end
return {registered, fields}
