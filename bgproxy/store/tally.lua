-- Count what was lost or cut towards a flip, if its record is there.
--
-- KEYS  1 flips hash
-- ARGV  1 epoch  2 sessions lost  3 turns cut

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[1], ARGV[1] .. ':lost', ARGV[2])
  redis.call('HINCRBY', KEYS[1], ARGV[1] .. ':turns_cut', ARGV[3])
end
return 1
