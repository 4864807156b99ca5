-- These keys' pins are over, and the aliases that live as long as they do with them. An older alias may outlive its
-- pin: it leads nowhere then.
--
-- KEYS  3... the keys
--
-- Answers with 1 for each key whose pin this has ended, with 0 for the others.

local ended = {}
for at, id in ipairs(ids(3, #KEYS)) do
  local pin = find(id)
  ended[at] = pin and 1 or 0
  if pin then
    redis.call('DEL', PREFIX .. pin.id)
    for from = 1, #pin.aliases, 16 do
      redis.call('DEL', PREFIX .. string.sub(pin.aliases, from, from + 15))
    end
    count(pin, -1)
    ring(pin)
    pins[pin.id] = nil
  end
end
ring_all()
return ended
