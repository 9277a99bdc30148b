-- Tests all charges of one request, then makes all or none of them. The arithmetic is gcra.rs's, with the same numbers.
--
-- KEYS[i]   a counter: "us" or "us:rem", its theoretical arrival time
-- ARGV[1]   "1" to make the charges, "0" to test only
-- ARGV[..]  five a key: step us, step rem, room us, room rem, count
-- returns   now in microseconds, then four a key: us and rem where the charge begins, 1 if it has room, 0 if not;
--           and its place in KEYS, so that a reply of another length or order is seen
--
-- Redis's own clock decides, in microseconds; every number here stays below 2^53.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local commit = ARGV[1] == '1'
local passed = true
local after = {}
local reply = { now }

for i = 1, #KEYS do
  local at = 2 + (i - 1) * 5
  local step_us, step_rem = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local full_us, full_rem = now + tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local count = tonumber(ARGV[at + 4])

  -- Where it begins: what an earlier charge of this request would leave, or what is stored, or idle.
  local us, rem = now, 0
  local earlier = after[KEYS[i]]
  if earlier then
    us, rem = earlier[1], earlier[2]
  else
    local stored = redis.call('GET', KEYS[i])
    if stored then
      local first, second = string.match(stored, '^(%d+):?(%d*)$')
      us, rem = tonumber(first), tonumber(second) or 0
      if rem >= count then us, rem = us + 1, 0 end
      if us < now then us, rem = now, 0 end
      if us > full_us or (us == full_us and rem > full_rem) then us, rem = full_us, full_rem end
    end
  end

  -- After the charge.
  local next_us, next_rem = us + step_us, rem + step_rem
  if next_rem >= count then next_us, next_rem = next_us + 1, next_rem - count end
  local room = next_us < full_us or (next_us == full_us and next_rem <= full_rem)
  if room then
    after[KEYS[i]] = { next_us, next_rem }
  else
    passed = false
  end
  reply[#reply + 1] = us
  reply[#reply + 1] = rem
  reply[#reply + 1] = room and 1 or 0
  reply[#reply + 1] = i
end

if passed and commit then
  for key, tat in pairs(after) do
    local value = string.format('%.0f', tat[1])
    if tat[2] > 0 then value = value .. string.format(':%.0f', tat[2]) end
    -- Until it is full again, which is the same as not being there; a second more for a clock set back meanwhile.
    redis.call('SET', key, value, 'PX', string.format('%.0f', math.ceil((tat[1] - now) / 1000) + 1000))
  end
end
return reply
