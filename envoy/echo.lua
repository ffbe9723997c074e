-- Keeps a credential that an upstream echoes in a header from the agent. The
-- filter before this one has put what was injected into the response, under the
-- name injected, behind the length of what the policy has put before the secret;
-- whatever happens here, the filter after this one removes it.

local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

local function percent(s, format)
  return (s:gsub("[^%w%-%._~]", function(c) return string.format(format, c:byte()) end))
end

local function hex(s)
  return (s:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

local function base64(s, digits)
  return (s:gsub("..?.?", function(c)
    local one, two, three = c:byte(1, 3)
    local n, out = one * 65536 + (two or 0) * 256 + (three or 0), ""
    for i = 3, 3 - #c, -1 do
      local at = math.floor(n / 64 ^ i) % 64 + 1
      out = out .. digits:sub(at, at)
    end
    return out
  end))
end

local function unbase64(s)
  local bits, n, out = 0, 0, {}
  for c in s:gmatch("[%w+/]") do
    n, bits = n % 65536 * 64 + (letters .. "+/"):find(c, 1, true) - 1, bits + 6
    if bits >= 8 then
      bits = bits - 8
      out[#out + 1] = string.char(math.floor(n / 2 ^ bits) % 256)
    end
  end
  return table.concat(out)
end

-- Of very short secrets only an exact echo is one.
local function find(value, form)
  if #form < 8 then
    return value == form and 1, #form
  end
  return value:find(form, 1, true)
end

-- Adds the ways to write a secret, but those that have one before in them.
local function spell(forms, secret)
  local function add(form)
    for _, f in ipairs(forms) do
      if find(form, f) then
        return
      end
    end
    forms[#forms + 1] = form
    forms.shortest = math.min(forms.shortest, #form)
  end
  add(secret)
  add(percent(secret, "%%%02X"))
  add(percent(secret, "%%%02x"))
  -- What an agent has sent may get here if there is no credential. Calculating
  -- with it takes time.
  if #secret > 8192 then
    return
  end
  add(hex(secret))
  add(hex(secret):upper())
  for _, digits in ipairs({letters .. "+/", letters .. "-_"}) do
    if #secret < 8 then
      local text = base64(secret, digits)
      add(text)
      add(text .. ("="):rep(-#text % 4))
    else
      -- By what is before it, a secret is one of three texts in base64.
      for before = 0, 2 do
        local text = base64(("x"):rep(before) .. secret, digits)
        add(text:sub(math.ceil(before * 8 / 6) + 1, math.floor((before + #secret) * 8 / 6)))
      end
    end
  end
end

-- What to look for, by what was injected. To make it costs more than to look,
-- and few credentials serve many requests. Old ones are forgotten at times.
local known, count = {}, 0

local function forms_of(said)
  local forms = known[said]
  if forms then
    return forms
  end
  forms = {shortest = math.huge}
  local prefix, whole = said:match("^(%d+) (.*)$")
  local secret = whole:sub(prefix + 1)
  if secret ~= "" and whole ~= "-" then
    -- A source may hold "Bearer" or the like as well.
    local bare = secret:match("^%a+%s+(.+)$")
    if bare then
      spell(forms, bare)
    end
    spell(forms, secret)
    local password = whole:lower():find("^basic ") and unbase64(whole:sub(7)):match(":(.+)$")
    if password then
      spell(forms, password)
    end
    spell(forms, whole)
  end
  if count >= 100 then
    known, count = {}, 0
  end
  known[said], count = forms, count + 1
  return forms
end

local function holds(value, forms)
  if #value < forms.shortest then
    return false
  end
  for _, form in ipairs(forms) do
    if find(value, form) then
      return true
    end
  end
  return false
end

local function response(all)
  local said = all:get(injected)
  all:remove(injected)
  if not said then
    return
  end
  local forms = forms_of(said)
  local drop
  for name, value in pairs(all) do
    if holds(value, forms) then
      drop = drop or {}
      drop[name] = value
    end
  end
  for name, value in pairs(drop or {}) do
    all:remove(name)
    if name == "location" then
      -- The way on is kept; the credential is added to it anew.
      for _, form in ipairs(forms) do
        local from, to = find(value, form)
        while from do
          value = value:sub(1, from - 1) .. value:sub(to + 1)
          from, to = find(value, form)
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
