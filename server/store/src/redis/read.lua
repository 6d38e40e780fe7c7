-- Reads of one instant, with store time and the state of the shard. A transaction would do the
-- same, but none is taken while memory is full.
--
-- KEYS: state of the shard, then what is read. ARGV: what to do, then its operands.
local call, keys, args = redis.call, KEYS, ARGV
local time = call('TIME')
local what, found = args[1], {}
if what == 'get' then
  for k = 2, #keys do found[k - 1] = call('GET', keys[k]) end
elseif what == 'range' then
  -- Command and limit, then the bounds of each range.
  for k = 2, #keys do
    found[k - 1] = call(args[2], keys[k], args[2 * k], args[2 * k + 1], 'LIMIT', 0, args[3])
  end
elseif what == 'size' then
  found[1] = call('ZCARD', keys[2])
elseif what == 'count' then
  found[1] = call('ZLEXCOUNT', keys[2], args[2], args[3])
elseif what == 'tail' then
  found = call('XRANGE', keys[2], args[2] .. '-0', '+', 'COUNT', args[3])
end
return {time[1], time[2], call('GET', keys[1]), found}
