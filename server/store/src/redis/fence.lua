-- Shuts out older connections of a writer. KEYS: its fences. ARGV: generation, seconds to keep it.
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'EX', ARGV[2]) end
return {0}
