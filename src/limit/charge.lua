-- Tests all charges of one request, then makes all or none of them. The arithmetic is that of gcra.rs, sliding.rs,
-- calendar.rs and slots.rs, with the same numbers in the same order.
--
-- KEYS[i]   a counter; what it holds, by its kind:
--             r  "us" or "us:rem", its theoretical arrival time; or "b" and the time until which it is banned
--             s  "index:current:previous", the bucket it was last charged in and what that and the one before hold
--             c  "from:used", when its window began and what it holds
--             p  a sorted set of who holds a place, by when that runs out
-- ARGV[1]   "1" to make the charges, "0" to test only
-- ARGV[..]  for each key its kind's letter with flags behind it as a digit (1: is charged; 2: has to have room, or nothing
--           is charged; 4: debts are kept), then
--             r  step us, step rem, room us, room rem, count, ban us
--             s  cost, count, period us
--             c  cost, count, and four times at which windows meet
--             p  count, lease us, holder
-- returns   now in microseconds, then five a key: three numbers for where the charge begins (r: us, rem, 1 if banned until
--           us; s: current, previous; c: used, from, until; p: others, first to run out, 1 if held), then 1 if it has room, 0
--           if not, 2 if its window is none of those given; and its place in KEYS, so that a reply of another length or order
--           is seen
--
-- Redis's own clock decides, in microseconds; every number here stays below 2^53.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local commit = ARGV[1] == '1'
local passed = true
local after = {}
local writes = {}
local reply = { now }
local at = 2

for i = 1, #KEYS do
  local key, head = KEYS[i], ARGV[at]
  local kind, flags = string.sub(head, 1, 1), tonumber(string.sub(head, 2))
  -- What an earlier charge of this request would leave.
  local earlier = after[key]
  local a, b, c, room = 0, 0, 0, 0
  local leaves, write

  if kind == 'r' then
    local step_us, step_rem = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local room_us, room_rem = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local count, ban = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
    local full_us, full_rem = now + room_us, room_rem
    at = at + 7
    local us, rem, banned = now, 0, 0
    if earlier then
      us, rem, banned = earlier[1], earlier[2], earlier[3]
    else
      local stored = redis.call('GET', key)
      if stored and string.byte(stored) == 98 then
        local till = tonumber(string.sub(stored, 2))
        if till > now then us, banned = till, 1 end
      elseif stored then
        local first, second = string.match(stored, '^(%d+):?(%d*)$')
        us, rem = tonumber(first), tonumber(second) or 0
        if rem >= count then us, rem = us + 1, 0 end
        if us < now then us, rem = now, 0 end
        local cap_us, cap_rem = full_us, full_rem
        if flags >= 4 then
          cap_us, cap_rem = full_us + room_us, full_rem + room_rem
          if cap_rem >= count then cap_us, cap_rem = cap_us + 1, cap_rem - count end
        end
        if us > cap_us or (us == cap_us and rem > cap_rem) then us, rem = cap_us, cap_rem end
      end
    end
    a, b, c = us, rem, banned
    if banned == 0 then
      local next_us, next_rem = us + step_us, rem + step_rem
      if next_rem >= count then next_us, next_rem = next_us + 1, next_rem - count end
      if next_us < full_us or (next_us == full_us and next_rem <= full_rem) then
        room = 1
        local value, lasts
        if ban > 0 then
          local then_us, then_rem = next_us + step_us, next_rem + step_rem
          if then_rem >= count then then_us, then_rem = then_us + 1, then_rem - count end
          if then_us > full_us or (then_us == full_us and then_rem > full_rem) then
            leaves = { now + ban, 0, 1 }
            value, lasts = string.format('b%.0f', now + ban), ban
          end
        end
        if not value then
          leaves = { next_us, next_rem, 0 }
          value, lasts = string.format('%.0f', next_us), next_us - now
          if next_rem > 0 then value = value .. string.format(':%.0f', next_rem) end
        end
        write = { value, lasts }
      end
    end

  elseif kind == 's' then
    local cost, count, period = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    local index = math.floor(now / period)
    local left = period - math.fmod(now, period)
    if earlier then
      a, b = earlier[1], earlier[2]
    else
      local stored = redis.call('GET', key)
      if stored then
        local first, second, third = string.match(stored, '^(%d+):(%d+):(%d+)$')
        first, second, third = tonumber(first), tonumber(second), tonumber(third)
        if first >= index then
          a, b = second, third
        elseif first + 1 == index then
          b = second
        end
      end
    end
    if a + math.floor(b * left / period) + cost <= count then
      room = 1
      leaves = { a + cost, b }
      write = { string.format('%.0f:%.0f:%.0f', index, a + cost, b), left + period }
    end

  elseif kind == 'c' then
    local cost, count = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    for meet = 3, 5 do
      local from, till = tonumber(ARGV[at + meet]), tonumber(ARGV[at + meet + 1])
      if from <= now and now < till then b, c = from, till end
    end
    at = at + 7
    if c == 0 then
      room = 2
    else
      if earlier then
        a = earlier[1]
      else
        local stored = redis.call('GET', key)
        if stored then
          local from, used = string.match(stored, '^(%d+):(%d+)$')
          from, used = tonumber(from), tonumber(used)
          if from >= b and from < c then a = used end
        end
      end
      if a + cost <= count then
        room = 1
        leaves = { a + cost }
        write = { string.format('%.0f:%.0f', b, a + cost), c - now }
      end
    end

  else
    local count, lease, holder = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
    at = at + 4
    local past = string.format('(%.0f', now)
    local mine = redis.call('ZSCORE', key, holder)
    if earlier or (mine and tonumber(mine) > now) then c = 1 end
    a = redis.call('ZCOUNT', key, past, '+inf')
    if mine and tonumber(mine) > now then a = a - 1 end
    local first = redis.call('ZRANGEBYSCORE', key, past, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
    for n = 1, #first, 2 do
      if b == 0 and first[n] ~= holder then b = tonumber(first[n + 1]) end
    end
    if a < count then
      room = 1
      leaves = {}
      write = { false, lease, holder }
    end
  end

  if room == 1 then
    if flags % 2 == 1 then
      after[key] = leaves
      writes[#writes + 1] = { key, write }
    end
  elseif flags % 4 >= 2 or room == 2 then
    passed = false
  end
  reply[#reply + 1] = a
  reply[#reply + 1] = b
  reply[#reply + 1] = c
  reply[#reply + 1] = room
  reply[#reply + 1] = i
end

if passed and commit then
  for i = 1, #writes do
    local key, value, lasts, holder = writes[i][1], writes[i][2][1], writes[i][2][2], writes[i][2][3]
    -- Until it is as if it had never been; a second more for a clock set back meanwhile.
    local ttl = string.format('%.0f', math.ceil(lasts / 1000) + 1000)
    if value then
      redis.call('SET', key, value, 'PX', ttl)
    else
      redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
      redis.call('ZADD', key, string.format('%.0f', now + lasts), holder)
      redis.call('PEXPIRE', key, ttl)
    end
  end
end
return reply
