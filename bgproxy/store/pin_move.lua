-- Move one session by hand, to a release that stands where the caller says.
--
-- KEYS  3 flips hash  4 one of its keys
-- ARGV  3 color  4 release  5 the epoch below which its own must be, or ""
--
-- Answers {id, text} of the pin that stands, {} where it is gone, {"none"} where no pointer stands.

FLIPS = KEYS[3]
local active, epoch = pointed()
if not active then
  return {'none'}
end
local pin = find(ids(4, 4)[1])
if not pin then
  return {}
end
local late = ARGV[5] ~= '' and tonumber(pin.epoch) >= tonumber(ARGV[5])
if ARGV[4] ~= '' and label(ARGV[3]) == ARGV[4] and not late then
  moved(pin, ARGV[3], ARGV[4], epoch)
  ring_all()
end
return {pin.id, text(pin)}
