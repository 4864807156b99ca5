-- Remember the upstream that serves a session, if its pin stands as the caller knows it.
--
-- KEYS  3 the pin's key
-- ARGV  3 color  4 release  5 upstream, all as known   6 the new upstream
--
-- Answers {id, text} of the pin that stands, {} where it is gone.

local pin = find(ids(3, 3)[1])
if not pin then
  return {}
end
if pin.color == ARGV[3] and pin.release == ARGV[4] and pin.upstream == ARGV[5] then
  pin.upstream = ARGV[6]
  keep(pin)
  ring(pin)
  ring_all()
end
return {pin.id, text(pin)}
