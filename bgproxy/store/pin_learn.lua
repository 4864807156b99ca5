-- Keys that agents have minted: aliases of the pin of their exchange, or of a new one at the place that served.
--
-- KEYS  3... the keys of all exchanges, one exchange after the other
-- ARGV  for each exchange from 3 on: how many keys, the pin's raw id or "", color, release, epoch, ttl, max_age, route,
--       preset, upstream
--
-- Answers {time, then for each: id, text, created, aliases, conflicts}.

local answer, at = {string.format('%.6f', now)}, 3
for arg = 3, #ARGV, 10 do
  local id, color, release = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  local mine = ids(at, at + ARGV[arg] - 1)
  at = at + ARGV[arg]

  local pin = id ~= '' and find(id) or nil
  local free, taken
  for _, key in ipairs(mine) do
    local standing = find(key)
    if not standing then
      free = free or key
    else
      taken = taken or standing
      -- Where the exchange had no pin, one of the same place that a key already leads to is as good.
      if not pin and standing.color == color and standing.release == release then
        pin = standing
      end
    end
  end

  local created, aliases, conflicts = false, 0, 0
  if pin then
    use(pin)
  elseif id ~= '' or free then
    created = true
    pin = create({id = id ~= '' and id or free, color = color, release = release, epoch = ARGV[arg + 4],
      created = string.format('%.3f', now), ttl = ARGV[arg + 5], max_age = ARGV[arg + 6], moved = '0',
      preset = ARGV[arg + 8], route = ARGV[arg + 7], upstream = ARGV[arg + 9]})
  end
  if pin then
    aliases, conflicts = lead_all(mine, pin)
  else -- all keys belong to others
    pin, conflicts = taken, #mine
  end
  for _, value in ipairs({pin.id, text(pin), created and 1 or 0, aliases, conflicts}) do
    answer[#answer + 1] = value
  end
end
return answer
