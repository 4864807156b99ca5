-- These keys' pins are over, and the aliases that live as long as they do with them. An older alias may outlive its
-- pin: it leads nowhere then.
--
-- KEYS  3... the keys

for _, id in ipairs(ids(3, #KEYS)) do
  local pin = find(id)
  if pin then
    redis.call('DEL', PREFIX .. pin.id)
    for at = 1, #pin.aliases, 16 do
      redis.call('DEL', PREFIX .. string.sub(pin.aliases, at, at + 15))
    end
    count(pin, -1)
    ring(pin)
    pins[pin.id] = nil
  end
end
ring_all()
return 1
