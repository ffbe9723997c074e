-- Keeps a credential that an upstream echoes in a header from the agent. The
-- filter before this one has put what was injected into the response, under the
-- name injected; whatever happens here, the filter after this one removes it.

local function encode(value)
  local s = value:gsub("[^%w%-%._~]", function(c) return string.format("%%%02X", c:byte()) end)
  return s
end

-- Of very short secrets only an exact echo is one.
local function find(value, secret)
  if #secret < 8 then
    return value == secret and 1, #secret
  end
  return value:find(secret, 1, true)
end

local function response(all)
  local secret = all:get(injected)
  all:remove(injected)
  if not secret or secret == "" or secret == "-" then
    return
  end
  secret = secret:match("^%a+%s+(.+)$") or secret
  local encoded = encode(secret)
  local drop
  for name, value in pairs(all) do
    if find(value, secret) or encoded ~= secret and find(value, encoded) then
      drop = drop or {}
      drop[name] = value
    end
  end
  for name, value in pairs(drop or {}) do
    all:remove(name)
    if name == "location" then
      -- The way on is kept; the credential is added to it anew.
      for _, s in ipairs({encoded, secret}) do
        local from, to = find(value, s)
        while from do
          value = value:sub(1, from - 1) .. value:sub(to + 1)
          from, to = find(value, s)
        end
      end
      all:add(name, value)
    end
  end
end

function envoy_on_response(handle)
  local all = handle:headers()
  if not pcall(response, all) then
    -- Rather no headers than one too many.
    local names = {}
    for name in pairs(all) do
      names[#names + 1] = name
    end
    for _, name in ipairs(names) do
      if name:sub(1, 1) ~= ":" then
        all:remove(name)
      end
    end
  end
end
