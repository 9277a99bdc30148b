-- Takes records in, all at once, and says so to whoever listens.
--
-- KEYS[1]: a hash; name -> record, and `version` -> what is different after each change.
-- ARGV: channel, next version, how many records there may be, then names and records in turn.
-- Gives: how many changed something, how many had no room, the version before, the version now.
--
-- A record begins with `+` (revoked) or `-` (undone). What is undone stays undone, whatever comes later: an agent that
-- missed it may put back what it knows at any time.
local channel, version, room = ARGV[1], ARGV[2], tonumber(ARGV[3])
local before = redis.call('HGET', KEYS[1], 'version') or ''
local held = redis.call('HLEN', KEYS[1])
if before ~= '' then held = held - 1 end
local changed, full, last = 0, 0, nil
for i = 4, #ARGV, 2 do
  local name, record = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', KEYS[1], name)
  local news = not known or (string.sub(record, 1, 1) == '-' and string.sub(known, 1, 1) == '+')
  if news and not known and held >= room then
    full = full + 1
  elseif news then
    redis.call('HSET', KEYS[1], name, record)
    if not known then held = held + 1 end
    changed, last = changed + 1, name .. ' ' .. record
  end
end
if changed == 0 then return { 0, full, before, before } end
redis.call('HSET', KEYS[1], 'version', version)
local said = before .. ' ' .. version
-- One is said; of several only that there are some, and whoever hears it asks.
if changed == 1 then said = said .. ' ' .. last end
-- It is there, whether or not this user may publish: who is not told finds it by asking.
redis.pcall('PUBLISH', channel, said)
return { changed, full, before, version }
