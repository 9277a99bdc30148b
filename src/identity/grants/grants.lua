-- Takes one grant in, or removes one.
--
-- KEYS[1]: a hash; name -> grant, and `version` -> what is different after each change.
-- ARGV: channel, next version, how many grants there may be, name, and the grant or nothing.
-- Gives: how many changed, how many had no room, and twice nothing.
local channel, version, room, name, grant = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
if grant == '' then
  if redis.call('HDEL', KEYS[1], name) == 0 then return { 0, 0, '', '' } end
else
  -- `version` is one of them.
  if redis.call('HLEN', KEYS[1]) > room then return { 0, 1, '', '' } end
  redis.call('HSET', KEYS[1], name, grant)
end
redis.call('HSET', KEYS[1], 'version', version)
-- The longest grant has thirty days.
redis.call('EXPIRE', KEYS[1], 2678400)
return { 1, 0, '', '' }
