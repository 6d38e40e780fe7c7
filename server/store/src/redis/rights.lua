-- Calls every command of the other scripts and of reads on a key that nothing else uses, and removes it again.
-- A user who may not call one is told so before the store opens, not in the middle of a commit.
local key, denied = KEYS[1], {}
local function call(name, ...)
  local answer = redis.pcall(name, ...)
  if type(answer) == 'table' and answer.err then denied[#denied + 1] = name end
end
local other = key .. '2'
call('TIME')
call('DEL', key, other)
call('SET', key, 'x', 'PX', 60000)
call('GET', key)
call('GETRANGE', key, 0, 0)
call('STRLEN', key)
call('SETRANGE', key, 0, 'y')
call('RENAME', key, other)
call('PERSIST', other)
call('PEXPIREAT', other, '99999999999999')
call('ZADD', key, 0, 'm')
call('ZCARD', key)
call('ZRANGE', key, 0, 0)
call('ZRANGEBYLEX', key, '-', '+')
call('ZREVRANGEBYLEX', key, '+', '-')
call('ZLEXCOUNT', key, '-', '+')
call('ZREM', key, 'm')
call('XADD', key, '1-0', 'e', 'x')
call('XRANGE', key, '-', '+', 'COUNT', 1)
call('XTRIM', key, 'MINID', '2-0')
call('DEL', key, other)
if #denied > 0 then
  return redis.error_reply('NOPERM in ' .. key .. ': ' .. table.concat(denied, ' '))
end
return {0}
