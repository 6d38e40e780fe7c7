-- Judges one batch and applies it. Whatever could fail comes before the first write, because a
-- script that fails half-way is not rolled back.
--
-- KEYS: state of the shard, its log, fence of the writer, then every name of the batch.
-- ARGV: commit id, the version that it makes, generation of the writer's connection, program, then
-- operands in the program's order.
-- The program: number of checks (2 bytes), then per step an operation (1) and a key (2).
-- Answers begin with a code, see `answer.rs`.
local call, sha = redis.call, redis.sha1hex
local byte, sub, find, rep = string.byte, string.sub, string.find, string.rep
local pack, unpack = struct.pack, struct.unpack
local ceil = math.ceil
local keys, args = KEYS, ARGV
local id, version, program = args[1], args[2], args[4]

-- An older connection of this writer has been given up: what still comes from it is too late.
local fence = call('GET', keys[3])
if fence and tonumber(fence) > tonumber(args[3]) then return {7} end

local function sum(key, text) return sub(sha(key .. text), 1, 8) end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local seq, next_id, first = 0, 1, 1
local state = call('GET', keys[1])
if state then
  if #state ~= 40 or sum(keys[1], sub(state, 1, 32)) ~= sub(state, 33) then return {6, 1} end
  local earlier
  earlier, seq, next_id, first = unpack('<I8I8I8I8', state)
  if earlier > now then now = earlier end
end

-- Record headers by key; nil = damaged.
local rows = {}
local function load(k)
  local row = rows[k]
  if row then return row end
  local key = keys[k]
  local head = call('GETRANGE', key, 0, 159)
  local size = #head
  if size == 0 then
    row = {live = false, ids = ''}
  elseif size < 32 then
    return nil
  else
    local format, flags, count, length, current, expires = unpack('<BBBBc8I8', head)
    if format ~= 1 or length > size or length < 32 + count * 16
      or sum(key, sub(head, 1, 24) .. sub(head, 33, length)) ~= sub(head, 25, 32) then
      return nil
    end
    row = {
      version = current, crc = sub(head, 21, 24), length = length,
      live = flags == 0 and (expires == 0 or expires > now),
      ids = sub(head, 33, 32 + count * 16),
    }
  end
  rows[k] = row
  return row
end

-- Whether our commit is among those of a record.
local function wrote(ids)
  local from = 1
  while true do
    local at = find(ids, id, from, true)
    if not at then return false end
    if at % 16 == 1 then return true end
    from = at + 1
  end
end

local checks = byte(program, 1) * 256 + byte(program, 2)
local writes = 3 + checks * 3
local stop = #program

-- Has an earlier send applied this batch?
for p = 3, writes - 1, 3 do
  local op, hi, lo = byte(program, p, p + 2)
  if op <= 2 then
    local k = hi * 256 + lo
    local row = load(k)
    if not row then return {6, k} end
    if wrote(row.ids) then return {1, now, seq} end
  end
end

-- Buckets as this batch leaves them: micros, fraction, permits.
local taken = {}

-- The arithmetic of `gcra.rs`, relative to now, in whole microseconds and a fraction of them.
local function demand(k, operand)
  local permits, cost, cost_part, room, room_part = unpack('<I4I8I8I8I8', operand)
  local key, bucket = keys[k], taken[k]
  if not bucket then
    local stored = call('GET', key)
    if stored then
      if #stored ~= 24 or sum(key, sub(stored, 1, 16)) ~= sub(stored, 17) then return {6, k} end
      local micros, part, by = unpack('<I8I4I4', stored)
      bucket = {micros, part, by}
    end
  end
  local whole, part = 0, 0
  if bucket then
    whole, part = bucket[1] - now, bucket[2]
    if bucket[3] ~= permits and part > 0 then whole, part = whole + 1, 0 end
    if whole < 0 then whole, part = 0, 0 end
  end
  whole, part = whole + cost, part + cost_part
  if part >= permits then whole, part = whole + 1, part - permits end
  local wait, wait_part = whole - room, part - room_part
  if wait_part < 0 then wait, wait_part = wait - 1, wait_part + permits end
  if wait >= 0 and (wait > 0 or wait_part > 0) then
    if wait_part > 0 then wait = wait + 1 end
    return {5, k, now + wait}
  end
  taken[k] = {now + whole, part, permits}
end

local a = 5
for p = 3, writes - 1, 3 do
  local op, hi, lo = byte(program, p, p + 2)
  local k = hi * 256 + lo
  if op == 1 then
    if load(k).live then return {2, k} end
  elseif op == 2 then
    local row = load(k)
    if not row.live or row.version ~= args[a] then return {2, k} end
    a = a + 1
  elseif op == 3 then
    local limit, holders = unpack('<I8I8', args[a])
    if call('ZCARD', keys[k]) >= limit then
      local answer = {4, k}
      if holders > 0 then
        for i, member in ipairs(call('ZRANGE', keys[k], 0, holders - 1)) do
          answer[i + 2] = member
        end
      end
      return answer
    end
    a = a + 1
  elseif op == 4 then
    local refusal = demand(k, args[a])
    if refusal then return refusal end
    a = a + 1
  else
    local row = load(k)
    if not row then return {6, k} end
    if not row.live then return {3, k} end
    if call('GETRANGE', keys[k], row.length, -1) ~= args[a + 1] then
      -- Other bytes with the expected checksum are damaged bytes.
      return {row.crc == args[a] and 6 or 3, k}
    end
    a = a + 2
  end
end

-- What the writes need.
local operand = a
for p = writes, stop, 3 do
  local op, hi, lo = byte(program, p, p + 2)
  local k = hi * 256 + lo
  if op == 6 or op == 7 then
    if not load(k) then return {6, k} end
    a = a + 2
  elseif op == 8 then
    if not load(k) then return {6, k} end
  elseif op == 13 then
    -- A payload that was uploaded before; its key is the one to use next.
    if call('STRLEN', keys[k]) ~= tonumber(args[a]) then return {8} end
    a = a + 1
  elseif op ~= 12 then
    a = a + 1
  end
end

-- From here on nothing fails but the first append, and appends come first in a program: a log that
-- is further than its state says refuses the id before anything was written.
local last = 0
local function append(value)
  local id = string.format('%.0f-0', next_id)
  local done = redis.pcall('XADD', keys[2], id, 'e', value)
  if type(done) == 'table' and done.err then
    if last == 0 then return false end
    error(done.err)
  end
  last, next_id = next_id, next_id + 1
  return true
end
local upload
a = operand
for p = writes, stop, 3 do
  local op, hi, lo = byte(program, p, p + 2)
  local k = hi * 256 + lo
  local key = keys[k]
  if op == 6 or op == 7 or op == 8 then
    local row, value, crc, ttl, flags = rows[k], '', '\0\0\0\0', 600000000, 1
    if op ~= 8 then
      crc, ttl = unpack('<c4I8', args[a])
      value, flags = args[a + 1], 0
      a = a + 2
    end
    local ids = row.ids .. id
    if #ids > 128 then ids = sub(ids, -128) end
    local expires = 0
    if ttl > 0 then expires = now + ttl end
    local count = #ids / 16
    -- Room for all ids is left in front of a payload, which stays where it is.
    if op == 7 then ids = ids .. rep('\0', 128 - #ids) end
    local head = pack('<BBBBc8I8', 1, flags, count, 32 + #ids, version, expires) .. crc
    head = head .. sum(key, head .. ids) .. ids
    -- Redis forgets later than store time says, which is never behind its clock.
    local gone = ceil(expires / 1000) + 1
    if op == 7 then
      call('SETRANGE', upload, 0, head)
      call('RENAME', upload, key)
      if ttl > 0 then call('PEXPIREAT', key, gone) else call('PERSIST', key) end
    elseif ttl > 0 then
      call('SET', key, head .. value, 'PXAT', gone)
    else
      call('SET', key, head .. value)
    end
  elseif op == 9 then
    call('ZADD', key, 0, args[a])
    a = a + 1
  elseif op == 10 then
    call('ZREM', key, args[a])
    a = a + 1
  elseif op == 11 then
    if not append(args[a]) then return {6, 2} end
    a = a + 1
  elseif op == 12 then
    if not append(call('GET', upload)) then return {6, 2} end
    call('DEL', upload)
  else
    upload = key
    a = a + 1
  end
end
for k, bucket in pairs(taken) do
  local body = pack('<I8I4I4', bucket[1], bucket[2], bucket[3])
  -- A full bucket is as good as none.
  call('SET', keys[k], body .. sum(keys[k], body), 'PXAT', ceil(bucket[1] / 1000) + 60000)
end
seq = seq + 1
state = pack('<I8I8I8I8', now, seq, next_id, first)
call('SET', keys[1], state .. sum(keys[1], state))
return {0, now, seq, last}
