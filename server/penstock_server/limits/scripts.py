"""What Redis does for ``shared``, in Lua: each of these looks and changes at once."""

from __future__ import annotations

from penstock_server.limits.rates import SLOTS

# Each key is a hash: a slot's number → how much is counted in it. For each of them, ARGV has the
# window's length in microseconds, what is allowed, and what is asked for.
TAKE = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local worst, wait = 0, 0
for i, key in ipairs(KEYS) do
  local window, allowed, amount = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local width = window / {SLOTS}
  local held, total, slots = redis.call('HGETALL', key), 0, {{}}
  for j = 1, #held, 2 do
    local number, count = tonumber(held[j]), tonumber(held[j+1])
    if (number + 1) * width + window <= now then
      redis.call('HDEL', key, held[j])
    else
      total = total + count
      slots[#slots+1] = {{number, count}}
    end
  end
  local excess = total + math.min(amount, allowed) - allowed
  if excess > 0 then
    table.sort(slots, function(a, b) return a[1] < b[1] end)
    local until_ = window
    for _, slot in ipairs(slots) do
      excess = excess - slot[2]
      if excess <= 0 then
        until_ = (slot[1] + 1) * width + window - now
        break
      end
    end
    if until_ > wait then worst, wait = i, until_ end
  end
end
if worst > 0 then return {{worst, math.max(math.ceil(wait), 1000)}} end
local answer = {{0}}
for i, key in ipairs(KEYS) do
  local window = tonumber(ARGV[3*i-2])
  local number = math.floor(now / (window / {SLOTS}))
  redis.call('HINCRBY', key, string.format('%d', number), ARGV[3*i])
  redis.call('PEXPIRE', key, math.ceil(window * 1.1 / 1000) + 1000)
  answer[i+1] = number
end
return answer
"""

# ARGV has the window's length, the slot and the change. A slot that is gone takes no refund.
CORRECT = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for i, key in ipairs(KEYS) do
  local window, number, change = tonumber(ARGV[3*i-2]), ARGV[3*i-1], tonumber(ARGV[3*i])
  if change > 0 and redis.call('HEXISTS', key, number) == 0 then
    number = string.format('%d', math.floor(now / (window / {SLOTS})))
  end
  if change > 0 or redis.call('HEXISTS', key, number) == 1 then
    redis.call('HINCRBY', key, number, ARGV[3*i])
    redis.call('PEXPIRE', key, math.ceil(window * 1.1 / 1000) + 1000)
  end
end
return 0
"""

# A sorted set: a place's name → until when it is held. ARGV has how many there are, for how long
# one is held (in microseconds), and its name.
ENTER = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[2]) / 1000))
return 1
"""

# ARGV has for how long, and the names of those that are still held.
RENEW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) / 1000))
return 0
"""
