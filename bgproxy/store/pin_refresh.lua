-- These keys' pins are in use: prolong them. Answers with those keys that lead to none.
--
-- KEYS  3... the keys

local gone = {}
for _, id in ipairs(ids(3, #KEYS)) do
  local pin = find(id)
  if not pin then
    gone[#gone + 1] = id
  else
    use(pin)
    if id ~= pin.id and not lives_along(id, pin) then
      lead(id, pin)
    end
  end
end
return gone
