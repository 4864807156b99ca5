-- The one way in which the fleet's state is written: compare, write, put on record, ring. Whole or not at all.
--
-- KEYS  1 state hash   2 audit stream   3 pins' counts hash   4 flips hash   5 hash of once.lua
--       6 nodes hash   7 held hash   8 the key that is there while nodes may be missing from the list
-- ARGV  1 our schema          2 what must stand: the revision and the pointer's epoch, color and time (or the
--       revision alone), or "" where nothing may stand
--       3 the bell's channel  4 about how many audit entries to keep
--       5 verb  6 actor  7 reason  8 facts (JSON)  9 epoch  10 revision, both after the change
--       11 the record of the flip that this is (JSON without its closing brace), "begin" for a fleet that begins, or ""
--       12 how many epochs' records to keep  13 14 the epoch to whose flip so many ended sessions are put, or 0
--       15 16 the color and the label that are active after the change
--       17 the hash of the audit entry's content, see rules/chain.py
--       18 the digest of an idempotency key, or ""  19 what comes of it, as once.lua keeps it; "" where that is not to be kept
--       20 the revision at which every node must hold, or ""  21 an object of nodes' ids that need not (JSON): true, or
--       the serial that their last beat must have for that
--       22 where what is written takes the place of all fields that stand, as what stood had lost something: for how
--       many milliseconds nodes may be missing from the list; or ""
--       then, for each field to write: its name, its value, and "stamp", a number of seconds or "".
--       A value to be stamped is a JSON object without its closing brace: the time of this Redis is its last member,
--       before it, with a number of seconds, the deadline that is so far away.
--
-- Answers {"done", time, audit id, seq, prev, hash}, {"newer", schema}, {"known", record, answer or ""},
-- {"waiting", node, ...} with those that do not hold, none where they are not all known, or {"conflict", field, value, ...} with what stands.

local standing = redis.call('HMGET', KEYS[1], 'schema', 'revision', 'pointer')
local schema = tonumber(standing[1] or '0')
if schema and schema > tonumber(ARGV[1]) then
  return {'newer', standing[1]}
end

ONCE = KEYS[5]
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local known = ARGV[18] ~= '' and recalled(ARGV[18], now)
if known then
  return {'known', known, redis.call('HGET', ONCE, 'body:' .. ARGV[18]) or ''}
end

-- The revision alone does not tell two histories apart, which a failover may have left.
local function fits()
  if ARGV[2] == '' then
    return redis.call('EXISTS', KEYS[1]) == 0
  end
  local revision, pointer = string.match(ARGV[2], '^(%d+) ?(.*)$')
  if not schema or standing[2] ~= revision then
    return false
  end
  return pointer == '' or pointed(standing[3]) == pointer
end
if not fits() then
  local answer = redis.call('HGETALL', KEYS[1])
  table.insert(answer, 1, 'conflict')
  return answer
end

local asleep = {}
if ARGV[20] ~= '' then
  local without = cjson.decode(ARGV[21])
  local function spared(node)
    local serial = without[node]
    if not serial or serial == true then
      return serial
    end
    local report = redis.call('HGET', KEYS[6], node)
    return (string.match(report, '"serial":(%d+)') or '0') == string.format('%d', serial)
  end
  for _, node in ipairs(redis.call('HKEYS', KEYS[6])) do
    if tonumber(redis.call('HGET', KEYS[7], node) or '0') < tonumber(ARGV[20]) and not spared(node) then
      asleep[#asleep + 1] = node
    end
  end
end
if #asleep > 0 or ARGV[20] ~= '' and redis.call('EXISTS', KEYS[8]) == 1 then
  table.sort(asleep)
  table.insert(asleep, 1, 'waiting')
  return asleep
end

local function member(entry, name)
  for i = 1, entry and #entry[2] or 0, 2 do
    if entry[2][i] == name then
      return entry[2][i + 1]
    end
  end
end

-- Where the audit's chain ends. A state that was lost while its record was not goes on behind that record.
local function chain_head()
  local seq, first, hash = string.match(redis.call('HGET', KEYS[1], 'chain') or '', '^(%d+) (%d+) (%x+)$')
  if not seq then
    local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
    seq, hash = member(newest, 'seq'), member(newest, 'hash')
    first = seq and member(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1], 'seq')
  end
  if not tonumber(seq) then
    return 0, 1, string.rep('0', 64)
  end
  return tonumber(seq), tonumber(first) or 1, hash
end

local seq, first, prev = chain_head()
local entries = redis.call('XLEN', KEYS[2])  -- asked before anything is written: a key that is no stream stops here

local write, rings = {'schema', ARGV[1], 'revision', ARGV[10]}, ARGV[10]
for i = 23, #ARGV, 3 do
  write[#write + 1] = ARGV[i]
  if (ARGV[i] == 'pending' or ARGV[i] == 'pause') and ARGV[i + 1] ~= 'null' then
    rings = '0' .. ARGV[10] -- whoever hears it is to hold at once
  end
  local seconds = tonumber(ARGV[i + 2])
  if seconds then
    local deadline = string.format('%.6f', time[1] + time[2] / 1000000 + seconds)
    write[#write + 1] = ARGV[i + 1] .. ',"deadline":' .. deadline .. ',"at":' .. now .. '}'
  elseif ARGV[i + 2] == 'stamp' then
    write[#write + 1] = ARGV[i + 1] .. ',"at":' .. now .. '}'
  else
    write[#write + 1] = ARGV[i + 1]
  end
end
-- A script that fails takes nothing back: what may be refused, as this user may not do it, comes first, and the state
-- itself last. Nobody hears the bell before the end, and one that rings in vain does no harm.
redis.call('PUBLISH', ARGV[3], rings)
if ARGV[22] ~= '' then
  redis.call('SET', KEYS[8], '1', 'PX', ARGV[22])
end
if ARGV[20] ~= '' then
  redis.call('DEL', KEYS[7])
end

-- The sessions that a flip leaves: those that live anywhere but on the release that becomes active.
local function left()
  local counted, counts = 0, redis.call('HGETALL', KEYS[3])
  for i = 1, #counts, 2 do
    local color, label, expires = string.match(counts[i], '^([^\t]*)\t([^\t]*)\t(%d+)$')
    if expires and tonumber(expires) > tonumber(now) and not (color == ARGV[15] and label == ARGV[16]) then
      counted = counted + tonumber(counts[i + 1])
    end
  end
  return counted
end

if ARGV[11] == 'begin' then
  redis.call('DEL', KEYS[4])
elseif ARGV[11] ~= '' then
  local record = ARGV[11] .. string.format(',"at":%s,"counted":%d}', now, left())
  local old = string.format('%d', ARGV[9] - ARGV[12])
  redis.call('HDEL', KEYS[4], old, old .. ':moved', old .. ':ended', old .. ':lost', old .. ':turns_cut')
  redis.call('HSET', KEYS[4], ARGV[9], record)
elseif redis.call('HEXISTS', KEYS[4], ARGV[13]) == 1 then
  redis.call('HINCRBY', KEYS[4], ARGV[13] .. ':ended', ARGV[14])
end

seq = seq + 1
local hash = sha256(string.format('bgproxy.audit.1\n%d\n%s\n%s\n%s', seq, now, prev, ARGV[17]))
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'verb', ARGV[5], 'actor', ARGV[6],
  'reason', ARGV[7], 'facts', ARGV[8], 'epoch', ARGV[9], 'revision', ARGV[10], 'at', now,
  'seq', seq, 'prev', prev, 'hash', hash)
if redis.call('XLEN', KEYS[2]) <= entries then  -- some were trimmed: which is the oldest that should be there from now on
  first = tonumber(member(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1], 'seq')) or first
end
if ARGV[19] ~= '' then
  remember(ARGV[18], now, ARGV[19])
end
if ARGV[22] ~= '' then
  redis.call('DEL', KEYS[1])
end
write[#write + 1] = 'chain'
write[#write + 1] = string.format('%d %d %s', seq, first, hash)
redis.call('HSET', KEYS[1], unpack(write))
return {'done', now, id, seq, prev, hash}
