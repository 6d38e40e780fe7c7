-- Drops log entries. KEYS: state of the shard, its log. ARGV: the first id to keep.
local call, sub = redis.call, string.sub
local function sum(text) return sub(redis.sha1hex(KEYS[1] .. text), 1, 8) end
local state = call('GET', KEYS[1])
if not state then return {0} end
if #state ~= 40 or sum(sub(state, 1, 32)) ~= sub(state, 33) then return {6, 1} end
local now, seq, next_id, first = struct.unpack('<I8I8I8I8', state)
local keep = math.min(tonumber(ARGV[1]), next_id)
if keep > first then
  call('XTRIM', KEYS[2], 'MINID', string.format('%.0f-0', keep))
  state = struct.pack('<I8I8I8I8', now, seq, next_id, keep)
  call('SET', KEYS[1], state .. sum(state))
end
return {0}
