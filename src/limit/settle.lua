-- Gives back, or charges afterwards, what the response of a request or another store's refusal made known. Never refuses.
--
-- KEYS[i]   a counter, as charge.lua keeps it
-- ARGV[..]  for each key its kind's letter with "-" (give back) or "+" (charge) behind it, then
--             r  us, rem, room us, room rem, count
--             s  how many, count, period us, and when it was charged
--             c  how many, count, when it was charged, and four times at which windows meet
--             p  holder
--
-- Redis's own clock decides. What was charged in a window that is over is not given back: it went with the window.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local at = 1

local function put(key, value, lasts)
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.ceil(lasts / 1000) + 1000))
end

for i = 1, #KEYS do
  local key, kind, more = KEYS[i], string.sub(ARGV[at], 1, 1), string.sub(ARGV[at], 2, 2) == '+'

  if kind == 'r' then
    local by_us, by_rem = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local room_us, room_rem, count = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    at = at + 6
    local us, rem = now, 0
    local stored = redis.call('GET', key)
    local banned = stored and string.byte(stored) == 98
    -- One that is banned stays so; a ban that is over is as if it had never been.
    if not banned or tonumber(string.sub(stored, 2)) <= now then
      if stored and not banned then
        local first, second = string.match(stored, '^(%d+):?(%d*)$')
        us, rem = tonumber(first), tonumber(second) or 0
        if rem >= count then us, rem = us + 1, 0 end
        if us < now then us, rem = now, 0 end
      end
      if more then
        us, rem = us + by_us, rem + by_rem
        if rem >= count then us, rem = us + 1, rem - count end
        local cap_us, cap_rem = now + 2 * room_us, 2 * room_rem
        if cap_rem >= count then cap_us, cap_rem = cap_us + 1, cap_rem - count end
        if us > cap_us or (us == cap_us and rem > cap_rem) then us, rem = cap_us, cap_rem end
      else
        us, rem = us - by_us, rem - by_rem
        if rem < 0 then us, rem = us - 1, rem + count end
      end
      if us > now or (us == now and rem > 0) then
        local value = string.format('%.0f', us)
        if rem > 0 then value = value .. string.format(':%.0f', rem) end
        put(key, value, us - now)
      elseif stored then
        redis.call('DEL', key)
      end
    end

  elseif kind == 's' then
    local by, count, period = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local charged = math.floor(tonumber(ARGV[at + 4]) / period)
    at = at + 5
    local index, current, previous = math.floor(now / period), 0, 0
    local stored = redis.call('GET', key)
    if stored then
      local first, second, third = string.match(stored, '^(%d+):(%d+):(%d+)$')
      first, second, third = tonumber(first), tonumber(second), tonumber(third)
      if first >= index then
        current, previous = second, third
      elseif first + 1 == index then
        previous = second
      end
    end
    if more then
      current = math.min(current + by, 2 * count)
    elseif charged >= index then
      current = math.max(current - by, 0)
    elseif charged + 1 == index then
      previous = math.max(previous - by, 0)
    end
    if stored or more then
      local lasts = 2 * period - math.fmod(now, period)
      put(key, string.format('%.0f:%.0f:%.0f', index, current, previous), lasts)
    end

  elseif kind == 'c' then
    local by, count, charged = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local from, till
    for meet = 4, 6 do
      local first, last = tonumber(ARGV[at + meet]), tonumber(ARGV[at + meet + 1])
      if first <= now and now < last then from, till = first, last end
    end
    at = at + 8
    -- Without a window it is an hour of a clock far off, and nothing is lost that the window's end would not take.
    if from then
      local used = 0
      local stored = redis.call('GET', key)
      if stored then
        local began, held = string.match(stored, '^(%d+):(%d+)$')
        began, held = tonumber(began), tonumber(held)
        if began >= from and began < till then used = held end
      end
      if more then
        used = math.min(used + by, 2 * count)
      elseif charged >= from and charged < till then
        used = math.max(used - by, 0)
      end
      if stored or more then put(key, string.format('%.0f:%.0f', from, used), till - now) end
    end

  else
    redis.call('ZREM', key, ARGV[at + 1])
    at = at + 2
  end
end
return 1
